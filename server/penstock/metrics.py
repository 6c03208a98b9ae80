"""What this server tells Prometheus: everything that a scrape asks, in one place."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from penstock.describe_instances import Instance, instance_families
from penstock.describe_queue import queue_families
from penstock.version import __version__
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.gpu_metrics import GpuMetrics
from penstock_runtime.observability.metrics import Family, MetricsRegistry, Source
from penstock_runtime.observability.model_metrics import (
    DEFAULT_OPTIONS,
    MetricsOptions,
    ModelView,
    model_families,
    readiness_family,
)
from penstock_runtime.observability.process_metrics import (
    MachineMetrics,
    build_family,
    process_families,
)
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.scheduling.base import QueueStats
from penstock_runtime.scheduling.queue_report import QueueReport


class ServedModel(Protocol):
    """A loaded version, as the metrics see it."""

    @property
    def statistics(self) -> ModelStatistics:
        """What it did."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its name and version."""

    @property
    def instances(self) -> Sequence[Instance]:
        """What executes it."""

    def queue_stats(self) -> QueueStats:
        """What waits for it."""

    def queue_report(self) -> QueueReport:
        """What waits for it, by priority, and what its batcher chose."""


class ServedRepository(Protocol):
    """The repository, as the metrics see it."""

    def models(self) -> Sequence[ServedModel]:
        """Every version that serves."""

    def index(self, ready_only: bool) -> Sequence[ModelIndexEntry]:
        """Every version there is, and its state."""


_SWITCHES = ("counter_latencies", "histogram_latencies", "summary_latencies")


def metrics_options(settings: Sequence[str]) -> MetricsOptions:
    """What `--metrics-config KEY=VALUE` says; InvalidArgument names what it does not understand."""
    chosen = {name: getattr(DEFAULT_OPTIONS, name) for name in _SWITCHES}
    quantiles = DEFAULT_OPTIONS.quantiles
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in _SWITCHES and value in ("true", "false"):
            chosen[key] = value == "true"
        elif key == "summary_quantiles":
            quantiles = _quantiles(value)
        else:
            raise InvalidArgument(
                f"--metrics-config {setting!r}: expected one of {', '.join(_SWITCHES)} with =true "
                "or =false, or summary_quantiles=0.5:0.05,0.99:0.001"
            )
    return MetricsOptions(**chosen, quantiles=quantiles)


def _quantiles(text: str) -> tuple[float, ...]:
    """Quantiles of Triton's form `quantile:error,...`; the errors mean nothing to histograms."""
    try:
        quantiles = tuple(float(item.partition(":")[0]) for item in text.split(","))
    except ValueError:
        quantiles = ()
    if not quantiles or not all(0 < quantile < 1 for quantile in quantiles):
        raise InvalidArgument(
            f"--metrics-config summary_quantiles={text!r}: expected quantiles between 0 and 1"
        )
    return quantiles


def server_metrics(
    repository: ServedRepository,
    sources: Iterable[Source] = (),
    options: MetricsOptions = DEFAULT_OPTIONS,
) -> MetricsRegistry:
    """Everything that a scrape of this server tells; `sources` are those that only it has, such as
    the counts of its calls and of its lost log lines.
    """
    registry = MetricsRegistry()
    registry.add_source(lambda: _model_families(repository, options))
    registry.add_source(lambda: queue_families(repository.models()))
    registry.add_source(lambda: [_readiness(repository)])
    registry.add_source(lambda: instance_families(repository.models()))
    for source in sources:
        registry.add_source(source)
    registry.add_source(process_families)
    registry.add_source(MachineMetrics().families)
    registry.add_source(GpuMetrics().families)
    registry.add_source(lambda: [build_family(__version__)])
    return registry


def _model_families(repository: ServedRepository, options: MetricsOptions) -> list[Family]:
    views = [
        ModelView(model.statistics.snapshot(), model.queue_stats()) for model in repository.models()
    ]
    return model_families(views, time.monotonic_ns(), options)


def _readiness(repository: ServedRepository) -> Family:
    entries = repository.index(ready_only=False)
    return readiness_family(
        (entry.name, entry.version, entry.state is ModelState.READY) for entry in entries
    )
