"""Metrics of a model's own: families and what they consist of, on the server's metrics page."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.scope import current, services_of
from penstock_runtime.errors import PenstockError
from penstock_runtime.observability.custom_metrics import CustomKind, CustomMetric, CustomMetrics

_KINDS: tuple[CustomKind, ...] = ("counter", "gauge", "histogram")
# Where there is no server, under a plain test, they are counted and nobody is told.
_UNTOLD = CustomMetrics()


class MetricFamily:
    """Metrics of one name, told apart by their labels."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2

    def __init__(self, name: str, description: str, kind: int) -> None:
        if kind not in (0, 1, 2):
            raise TritonModelException(
                f"metric '{name}' is of kind {kind!r}, expected MetricFamily.COUNTER, GAUGE or"
                " HISTOGRAM"
            )
        self._family = (name, _KINDS[kind], description)
        scope = current()
        self._metrics = _metrics()
        self._owner: object = scope.host or self
        with _told():
            self._metrics.declare(name, _KINDS[kind], description)

    def Metric(  # noqa: N802 - the name is fixed
        self, labels: Mapping[str, Any] | None = None, buckets: Sequence[float] | None = None
    ) -> "Metric":
        """The metric with these labels; of a histogram, with these upper bounds, ascending."""
        if labels is not None and not isinstance(labels, Mapping):
            raise TritonModelException("Failed to create metric. Labels must be a dictionary.")
        if buckets is not None and not isinstance(buckets, list | tuple):
            raise TritonModelException("Failed to create metric. Buckets must be a list.")
        texts = {str(name): str(value) for name, value in (labels or {}).items()}
        with _told():
            return Metric(
                self._metrics.metric(self._owner, self._family, texts, tuple(buckets or ()))
            )


class Metric:
    """One of a family; made by `MetricFamily.Metric`."""

    __slots__ = ("_metric",)

    def __init__(self, metric: CustomMetric) -> None:
        self._metric = metric

    def increment(self, value: float) -> None:
        """Add to a counter, nothing below 0, or to a gauge."""
        with _told():
            self._metric.increment(value)

    def set(self, value: float) -> None:
        """Set a gauge."""
        with _told():
            self._metric.set(value)

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        with _told():
            self._metric.observe(value)

    def value(self) -> float:
        """What a counter or a gauge has come to."""
        with _told():
            return self._metric.value()


def _metrics() -> CustomMetrics:
    try:
        return services_of(current(), "a metric").metrics
    except TritonModelException:
        return _UNTOLD


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except PenstockError as error:
        raise TritonModelException(error.message) from None
