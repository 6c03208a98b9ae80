"""Models started as servers start them, whose executions the test can see and hold."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.runtime.fakes import config, request

from penstock_runtime.backends.base import Arrays, LoadedModel, ModelSource, Placement
from penstock_runtime.config import (
    InstanceGroup,
    ModelConfig,
    RateLimiter,
    RateLimiterResource,
)
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.model import Model
from penstock_runtime.scheduling.rates import Rates
from penstock_runtime.starting import Common, start_model
from penstock_runtime.stream import ResponseStream

NOWHERE = Path("nowhere")


class Stage:
    """A loaded model: which instances execute, how many did at once, and what holds them.

    `may_run` is waited for in every execution; a placement in `broken` does not come up.
    """

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.may_run.set()
        self.broken: set[str] = set()
        self.running: list[str] = []
        self.most = 0
        self.done: list[str] = []
        self.closed: list[str] = []
        self.ended = False
        self._lock = threading.Lock()

    def executable(self, placement: Placement) -> "Actor":
        """One more instance."""
        if placement.name in self.broken:
            raise InvalidArgument(f"{placement.name} does not come up")
        return Actor(self, placement.name)

    @contextmanager
    def scene(self, name: str) -> Any:
        """One execution."""
        with self._lock:
            self.running.append(name)
            self.most = max(self.most, len(self.running))
        try:
            assert self.may_run.wait(30)
            yield
        finally:
            with self._lock:
                self.running.remove(name)
                self.done.append(name)

    def close(self) -> None:
        self.ended = True

    def memory_bytes(self) -> Mapping[str, int]:
        return {}


class Actor:
    """One instance of it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._name = name

    def execute(self, inputs: Arrays, _contexts: Sequence[RequestContext]) -> Arrays:
        """The input as it is; a negative number fails."""
        with self._stage.scene(self._name):
            if inputs["X"].min() < 0:
                raise ValueError("negative")
            return {"Y": inputs["X"]}

    def close(self) -> None:
        self._stage.closed.append(self._name)


class StageBackend:
    """Loads one stage."""

    name = "stage"
    uses_gpu = False

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def recognises(self, source: ModelSource) -> bool:
        """Everything."""
        return bool(source)

    def complete(self, source: ModelSource) -> ModelConfig:
        """Nothing is missing."""
        return source.config

    def load(self, source: ModelSource) -> LoadedModel:
        """The stage, whatever the source."""
        assert source.version == 1
        return self._stage


def group(
    count: int = 1, name: str = "g", *, needs: int = 0, priority: int = 0, resource: str = "R"
) -> InstanceGroup:
    """Instances in host memory that need so many of the resource."""
    limiter = RateLimiter((RateLimiterResource(resource, False, needs),), priority)
    return InstanceGroup(name, "KIND_CPU", count, limiter if needs else None)


def staffed(*groups: InstanceGroup, **more: Any) -> ModelConfig:
    """A model with these instances that executes requests one by one."""
    made: Mapping[str, Any] = {"max_batch": 0, **more}
    plain = config(**made)
    return ModelConfig(
        name=plain.name,
        max_batch_size=plain.max_batch_size,
        input=plain.input,
        output=plain.output,
        dynamic_batching=plain.dynamic_batching,
        instance_group=groups,
    )


def start(stage: Stage, model_config: ModelConfig, rates: Rates | None = None) -> Model:
    """The model, warm."""
    source = ModelSource(model_config, 1, NOWHERE, NOWHERE)
    return start_model(source, StageBackend(stage), Common(rates=rates))


def ask(model: Model, *values: Any) -> ResponseStream:
    """Submit a request with these numbers, or rows of numbers; its stream."""
    stream = ResponseStream()
    model.submit(request(list(values or (1.0, 2.0))), stream)
    return stream


def answer(stream: ResponseStream) -> Any:
    """The numbers of its one answer."""
    return stream.collect()[0].outputs[0].array.tolist()


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread; the test's own time limit ends what never happens."""
    while not condition():
        time.sleep(0.001)
