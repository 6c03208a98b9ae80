"""What a scrape is told of instances that are processes of their own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from penstock_runtime.observability.metrics import Family, Sample


class Process(Protocol):
    """The process of an instance, as the metrics see it."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    @property
    def restarts(self) -> int:
        """How often there was another one."""


class Instance(Protocol):
    """An instance, as the metrics see it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def healthy(self) -> bool:
        """Whether it serves."""

    @property
    def process(self) -> Process | None:
        """What it is in, if that is a process of its own."""


class Staffed(Protocol):
    """A model, as far as its instances go."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its name and version."""

    @property
    def instances(self) -> Sequence[Instance]:
        """Its instances."""


def instance_families(models: Iterable[Staffed]) -> list[Family]:
    """Whether each is there, its process, and how often it came back; nothing where there are
    none.
    """
    up: list[Sample] = []
    pids: list[Sample] = []
    restarts: list[Sample] = []
    for model in models:
        for instance in model.instances:
            process = instance.process
            if process is not None:
                labels = {**model.labels, "instance": instance.name}
                up.append(Sample(instance.healthy, labels))
                pids.append(Sample(process.pid or 0, labels))
                restarts.append(Sample(process.restarts, labels))
    if not up:
        return []
    return [
        Family("penstock_instance_up", "gauge", "1 where an isolated instance serves", tuple(up)),
        Family(
            "penstock_instance_pid",
            "gauge",
            "The process of an isolated instance, 0 for none",
            tuple(pids),
        ),
        Family(
            "penstock_instance_restarts_total",
            "counter",
            "How often the process of an isolated instance was started again",
            tuple(restarts),
        ),
    ]
