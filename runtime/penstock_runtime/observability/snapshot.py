"""What a model's statistics look like when they are read: frozen values.

Durations are in nanoseconds. The names are those of Triton's ModelStatistics message.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock_runtime.errors import FailureReason
from penstock_runtime.observability.histogram import HistogramSnapshot
from penstock_runtime.scheduling.queue_report import NOTHING_WAITS, QueueReport


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The executions of one batch size (rows); each duration counts executions."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class ResponseStatistics:
    """The responses of one index of a decoupled model."""

    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    success: Duration = Duration()
    fail: Duration = Duration()
    empty_response: Duration = Duration()
    cancel: Duration = Duration()


@dataclass(frozen=True, slots=True)
class MemoryUsage:
    """Bytes that the version holds in one memory; `kind` is CPU or GPU."""

    kind: str
    id: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class LatencySnapshot:
    """Histograms in nanoseconds. The compute phases count every request of a batch with the batch's
    duration, as the cumulative counters do; `first_response` is of decoupled requests, `cache_hit`
    and `cache_miss` are looks into the response cache.
    """

    request: HistogramSnapshot
    queue: HistogramSnapshot
    compute_input: HistogramSnapshot
    compute_infer: HistogramSnapshot
    compute_output: HistogramSnapshot
    first_response: HistogramSnapshot
    cache_hit: HistogramSnapshot
    cache_miss: HistogramSnapshot


@dataclass(frozen=True, slots=True)
class StatisticsSnapshot:
    """Everything counted since the version was loaded.

    `inference_count` counts rows and `execution_count` executions, both without cache hits;
    `last_inference_ms` is since the epoch, 0 for never. `response_stats` goes by the response's
    index, where "1000" stands for every index from 1000 on. `first_response_buckets` has Triton's
    configurable bounds.
    """

    model: str
    version: int
    tags: Mapping[str, str]
    last_inference_ms: int
    inference_count: int
    execution_count: int
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration
    batch_stats: tuple[BatchStatistics, ...]
    response_stats: Mapping[str, ResponseStatistics]
    memory_usage: tuple[MemoryUsage, ...]
    failures: Mapping[FailureReason, int]
    latency: LatencySnapshot
    batch_rows: HistogramSnapshot
    first_response_buckets: HistogramSnapshot
    load_seconds: float
    decoupled: bool
    response_cache: bool
    waiting: QueueReport = NOTHING_WAITS
    """What waits now; filled in by whoever knows the queue."""
