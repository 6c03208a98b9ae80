"""What one version of one model has done since it was loaded, counted as Triton counts it.

Counting is one short hold of one lock per batch; reading gives a frozen snapshot. Nothing here
knows how the numbers are shown.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from penstock_runtime.errors import FailureReason
from penstock_runtime.observability.first_response import FIRST_RESPONSE_BUCKETS_MS
from penstock_runtime.observability.histogram import ROW_BOUNDS, Histogram, HistogramSnapshot
from penstock_runtime.observability.response_table import (
    Outcome,
    ResponseTable,
    Run,
)
from penstock_runtime.observability.snapshot import (
    BatchStatistics,
    Duration,
    LatencySnapshot,
    MemoryUsage,
    StatisticsSnapshot,
)

# A batch may have any size; what is kept per size may not grow with them.
BATCH_SIZE_LIMIT = 1024

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


class RequestTiming(NamedTuple):
    """One request of an executed batch: from its arrival to its answer, and in the queue."""

    # A tuple, because one is made per request and a frozen dataclass costs three times as much.
    total_ns: int
    queue_ns: int
    rows: int = 1


AloneTiming = tuple[int, int, int, int, int]
"""One request that was executed alone: its rows, nanoseconds from its arrival to its answer, in the
queue, in the model, and on its outputs.
"""


class _Phases:
    """The histograms of one model."""

    __slots__ = (
        "cache_hit",
        "cache_miss",
        "compute_infer",
        "compute_input",
        "compute_output",
        "first",
        "queue",
        "request",
    )

    def __init__(self) -> None:
        self.request = Histogram()
        self.queue = Histogram()
        self.compute_input = Histogram()
        self.compute_infer = Histogram()
        self.compute_output = Histogram()
        self.first = Histogram()
        self.cache_hit = Histogram()
        self.cache_miss = Histogram()

    def snapshot(self) -> LatencySnapshot:
        return LatencySnapshot(
            request=self.request.snapshot(),
            queue=self.queue.snapshot(),
            compute_input=self.compute_input.snapshot(),
            compute_infer=self.compute_infer.snapshot(),
            compute_output=self.compute_output.snapshot(),
            first_response=self.first.snapshot(),
            cache_hit=self.cache_hit.snapshot(),
            cache_miss=self.cache_miss.snapshot(),
        )


class ModelStatistics:
    """Counts for one version of one model; every method may be called from any thread.

    `load_seconds` is set by whoever loaded the model. `first_response_ms` are the bounds of
    Triton's histogram of first responses, in milliseconds.
    """

    def __init__(
        self,
        model: str,
        version: int,
        tags: Mapping[str, str] = _NO_TAGS,
        *,
        decoupled: bool = False,
        response_cache: bool = False,
        first_response_ms: Sequence[float] = FIRST_RESPONSE_BUCKETS_MS,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.model = model
        self.version = version
        self.tags = MappingProxyType(dict(tags))
        self.load_seconds = 0.0
        self._decoupled = decoupled
        self._response_cache = response_cache
        self._wall_clock_ns = wall_clock_ns
        self._lock = threading.Lock()
        self._last_inference_ns = 0
        self._inference_count = 0
        self._execution_count = 0
        self._phases = _Phases()
        self._batch_rows = Histogram(ROW_BOUNDS)
        self._first_buckets = Histogram(sorted({round(ms * 1e6) for ms in first_response_ms}))
        self._fail_ns = 0
        self._failures = dict.fromkeys(FailureReason, 0)
        # Per batch size: executions, and nanoseconds of input, infer and output.
        self._batches: dict[int, list[int]] = {}
        self._responses = ResponseTable()
        self._memory: tuple[MemoryUsage, ...] = ()

    def record_batch(
        self,
        rows: int,
        requests: Sequence[RequestTiming],
        input_ns: int,
        infer_ns: int,
        output_ns: int,
    ) -> None:
        """Count one execution of `rows` rows and the requests that it answered successfully."""
        number = len(requests)
        phases = self._phases
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            self._inference_count += rows
            self._execution_count += 1
            phases.request.observe_all([timing[0] for timing in requests])
            phases.queue.observe_all([timing[1] for timing in requests])
            phases.compute_input.observe(input_ns, number)
            phases.compute_infer.observe(infer_ns, number)
            phases.compute_output.observe(output_ns, number)
            self._batch_rows.observe(rows)
            batch = self._batches.get(rows) or self._new_batch(rows)
            batch[0] += 1
            batch[1] += input_ns
            batch[2] += infer_ns
            batch[3] += output_ns

    def record_alone(self, spent: Sequence[AloneTiming]) -> None:
        """Count executions of one request each, all of them successful."""
        if not spent:
            return
        phases = self._phases
        rows, total_ns, queue_ns, infer_ns, output_ns = zip(*spent, strict=True)
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            self._inference_count += sum(rows)
            self._execution_count += len(spent)
            phases.request.observe_all(total_ns)
            phases.queue.observe_all(queue_ns)
            phases.compute_input.observe(0, len(spent))
            phases.compute_infer.observe_all(infer_ns)
            phases.compute_output.observe_all(output_ns)
            self._batch_rows.observe_all(rows)
            if len(set(rows)) == 1:
                batch = self._batches.get(rows[0]) or self._new_batch(rows[0])
                batch[0] += len(spent)
                batch[2] += sum(infer_ns)
                batch[3] += sum(output_ns)
                return
            for number, _, _, infer, output in spent:
                batch = self._batches.get(number) or self._new_batch(number)
                batch[0] += 1
                batch[2] += infer
                batch[3] += output

    def record_late(self, timing: RequestTiming, input_ns: int, infer_ns: int) -> None:
        """Count the success of a request whose execution was counted before it was answered."""
        phases = self._phases
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            phases.request.observe(timing.total_ns)
            phases.queue.observe(timing.queue_ns)
            phases.compute_input.observe(input_ns)
            phases.compute_infer.observe(infer_ns)
            phases.compute_output.observe(0)

    def record_failure(self, reason: FailureReason, duration_ns: int) -> None:
        """Count one request that did not succeed."""
        with self._lock:
            self._failures[reason] += 1
            self._fail_ns += duration_ns

    def record_response(
        self,
        index: int,
        infer_ns: int,
        output_ns: int,
        outcome: Outcome,
        first_ns: int | None = None,
    ) -> None:
        """Count one response of a decoupled request.

        `infer_ns` is since the response before it (or the start), `first_ns` from the request's
        arrival to its first response, None for later ones. An `empty` one carried no outputs, a
        `cancel` found that the caller had given up; both count `infer_ns` only.
        """
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            self._responses.add(index, infer_ns, output_ns, outcome)
            if first_ns is not None:
                self._phases.first.observe(first_ns)
                self._first_buckets.observe(first_ns)

    def record_run(self, run: Run) -> None:
        """Count successful responses of one decoupled request that followed each other, none of
        them its first.
        """
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            self._responses.add_run(run)

    def record_cache_hit(self, timing: RequestTiming, lookup_ns: int) -> None:
        """Count one request answered from the response cache: a success, but no execution."""
        with self._lock:
            self._last_inference_ns = self._wall_clock_ns()
            self._phases.request.observe(timing.total_ns)
            self._phases.queue.observe(timing.queue_ns)
            self._phases.cache_hit.observe(lookup_ns)

    def record_cache_miss(self, lookup_ns: int) -> None:
        """Count one look into the response cache (with the insertion) that found nothing."""
        with self._lock:
            self._phases.cache_miss.observe(lookup_ns)

    def set_memory(self, bytes_by_device: Mapping[str, int]) -> None:
        """Say what the version holds, per device in torch's words ("cpu", "cuda:0")."""
        self._memory = tuple(_memory(name, size) for name, size in sorted(bytes_by_device.items()))

    def totals(self) -> tuple[int, int]:
        """Requests that succeeded, and that did not; cheaper than a snapshot."""
        with self._lock:
            return self._phases.request.count, sum(self._failures.values())

    def snapshot(self) -> StatisticsSnapshot:
        """Everything counted until now, consistent in itself."""
        with self._lock:
            latency = self._phases.snapshot()
            return StatisticsSnapshot(
                model=self.model,
                version=self.version,
                tags=self.tags,
                last_inference_ms=self._last_inference_ns // 1_000_000,
                inference_count=self._inference_count,
                execution_count=self._execution_count,
                success=_duration(latency.request),
                fail=Duration(sum(self._failures.values()), self._fail_ns),
                queue=_duration(latency.queue),
                compute_input=_duration(latency.compute_input),
                compute_infer=_duration(latency.compute_infer),
                compute_output=_duration(latency.compute_output),
                cache_hit=_duration(latency.cache_hit),
                cache_miss=_duration(latency.cache_miss),
                batch_stats=tuple(
                    _batch(size, sums) for size, sums in sorted(self._batches.items())
                ),
                response_stats=self._responses.freeze(),
                memory_usage=self._memory,
                failures=MappingProxyType(dict(self._failures)),
                latency=latency,
                batch_rows=self._batch_rows.snapshot(),
                first_response_buckets=self._first_buckets.snapshot(),
                load_seconds=self.load_seconds,
                decoupled=self._decoupled,
                response_cache=self._response_cache,
            )

    def _new_batch(self, rows: int) -> list[int]:
        """The sums of a size not seen before; past the limit, those of the next power of two."""
        if len(self._batches) >= BATCH_SIZE_LIMIT:
            rows = 1 << max(rows - 1, 0).bit_length()
        return self._batches.setdefault(rows, [0, 0, 0, 0])

    def __repr__(self) -> str:
        return (
            f"ModelStatistics({self.model}/{self.version}, inferences={self._inference_count},"
            f" executions={self._execution_count}, failures={sum(self._failures.values())})"
        )


def _duration(histogram: HistogramSnapshot) -> Duration:
    return Duration(histogram.count, histogram.total)


def _batch(size: int, sums: Sequence[int]) -> BatchStatistics:
    count, input_ns, infer_ns, output_ns = sums
    return BatchStatistics(
        batch_size=size,
        compute_input=Duration(count, input_ns),
        compute_infer=Duration(count, infer_ns),
        compute_output=Duration(count, output_ns),
    )


def _memory(device: str, byte_size: int) -> MemoryUsage:
    name, _, ordinal = device.partition(":")
    return MemoryUsage("CPU" if name == "cpu" else "GPU", int(ordinal or 0), byte_size)
