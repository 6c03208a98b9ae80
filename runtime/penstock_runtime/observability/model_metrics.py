"""What is told of each loaded model: Triton's families under Triton's names, and penstock's own.

Label values come from loaded models and their configuration, never from a request; only what is
loaded now is told, so that a reloaded version leaves no stale series behind.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from penstock_runtime.errors import FailureReason
from penstock_runtime.observability.first_response import FIRST_RESPONSE_FAMILY
from penstock_runtime.observability.histogram import EXPORTED_BOUNDS_NS, HistogramSnapshot
from penstock_runtime.observability.metrics import (
    Family,
    Kind,
    Sample,
    histogram_samples,
    label_name,
    summary_samples,
)
from penstock_runtime.observability.snapshot import StatisticsSnapshot
from penstock_runtime.scheduling.base import QueueStats, SequenceStats

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

_RESERVED = frozenset({"device", "le", "model", "quantile", "reason", "version"})

# Attribute of the latency snapshot, and what the phase is.
_PHASES = (
    ("request", "from the arrival of a request to its answer"),
    ("queue", "that requests waited in the queue"),
    ("compute_input", "of gathering the inputs of a request's batch"),
    ("compute_infer", "of executing a request's batch"),
    ("compute_output", "of handing out the outputs of a request's batch"),
)

_LOOKUPS = (
    ("cache_hit", "of looks into the response cache that found the answer"),
    (
        "cache_miss",
        "of looks into the response cache that found none, and of keeping what was made",
    ),
)


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Which of Triton's optional families are told; `quantiles` are those of the summaries."""

    counter_latencies: bool = True
    histogram_latencies: bool = False
    summary_latencies: bool = False
    quantiles: tuple[float, ...] = QUANTILES


@dataclass(frozen=True, slots=True)
class ModelView:
    """One loaded version at the time of a scrape: what it did and what waits for it."""

    statistics: StatisticsSnapshot
    queue: QueueStats


DEFAULT_OPTIONS = MetricsOptions()

_Value = Callable[[ModelView], float]


def model_families(
    views: Iterable[ModelView], now: int, options: MetricsOptions = DEFAULT_OPTIONS
) -> list[Family]:
    """Every family of the models, ordered by model and version; `now` is monotonic nanoseconds."""
    # Of two models of one version (one of them still draining) the last is told: a series that
    # occurs twice makes Prometheus refuse the whole scrape.
    by_name = {(view.statistics.model, view.statistics.version): view for view in views}
    ordered = [by_name[key] for key in sorted(by_name)]
    families = [*_requests(ordered), *_gauges(ordered), *_queues(ordered, now), *_caches(ordered)]
    families += _sequences(ordered)
    if options.counter_latencies:
        families += _latency_counters(ordered)
    if options.histogram_latencies:
        families.append(_first_response_ms(ordered))
    if options.summary_latencies:
        families += _summaries(ordered, options.quantiles)
    return [*families, *_histograms(ordered)]


def readiness_family(states: Iterable[tuple[str, str, bool]]) -> Family:
    """Whether each version in the repository's index serves: (model, version, ready)."""
    samples = (
        Sample(ready, {"model": model, "version": version}) for model, version, ready in states
    )
    return Family(
        "penstock_model_ready", "gauge", "1 where a version of a model serves", tuple(samples)
    )


def model_labels(statistics: StatisticsSnapshot) -> dict[str, str]:
    """The labels of one version: its metric_tags, its name and its number."""
    labels = {label_name(name, _RESERVED): value for name, value in statistics.tags.items()}
    return {**labels, "model": statistics.model, "version": str(statistics.version)}


def _family(name: str, kind: Kind, help_: str, views: Sequence[ModelView], value: _Value) -> Family:
    samples = (Sample(value(view), model_labels(view.statistics)) for view in views)
    return Family(name, kind, help_, tuple(samples))


def _counters(
    rows: Iterable[tuple[str, str, str]], views: Sequence[ModelView], unit: int = 1
) -> list[Family]:
    """One counter per row of (name, path in the statistics, help), divided by `unit`."""
    return [
        _family(name, "counter", help_, views, _reader(path, unit)) for name, path, help_ in rows
    ]


def _reader(path: str, unit: int) -> _Value:
    get = attrgetter(path)
    return lambda view: get(view.statistics) // unit


def _requests(views: Sequence[ModelView]) -> list[Family]:
    rows = (
        ("nv_inference_request_success", "success.count", "Requests answered successfully"),
        ("nv_inference_count", "inference_count", "Rows executed, without cache hits"),
        ("nv_inference_exec_count", "execution_count", "Executions, without cache hits"),
    )
    return [*_counters(rows, views), _failures(views)]


def _failures(views: Sequence[ModelView]) -> Family:
    samples = (
        Sample(
            view.statistics.failures[reason],
            {**model_labels(view.statistics), "reason": reason.value},
        )
        for view in views
        for reason in FailureReason
    )
    return Family(
        "nv_inference_request_failure",
        "counter",
        "Requests that did not succeed, by reason",
        tuple(samples),
    )


def _gauges(views: Sequence[ModelView]) -> list[Family]:
    load = _family(
        "nv_model_load_duration_secs",
        "gauge",
        "Seconds that loading the version took",
        views,
        lambda view: view.statistics.load_seconds,
    )
    memory = (
        Sample(
            usage.byte_size, {**model_labels(view.statistics), "device": f"{usage.kind}:{usage.id}"}
        )
        for view in views
        for usage in view.statistics.memory_usage
    )
    name = "penstock_model_memory_bytes"
    return [load, Family(name, "gauge", "Bytes that a version holds per device", tuple(memory))]


def _queues(views: Sequence[ModelView], now: int) -> list[Family]:
    def age(view: ModelView) -> float:
        return max(now - view.queue.oldest_ns, 0) / 1e9 if view.queue.oldest_ns else 0

    rows: tuple[tuple[str, str, _Value], ...] = (
        (
            "nv_inference_pending_request_count",
            "Requests that wait for execution",
            lambda view: view.queue.requests,
        ),
        ("penstock_queue_requests", "Requests in the queue", lambda view: view.queue.requests),
        ("penstock_queue_rows", "Rows in the queue", lambda view: view.queue.rows),
        ("penstock_queue_oldest_age_seconds", "Age of the oldest request in the queue", age),
    )
    return [_family(name, "gauge", help_, views, value) for name, help_, value in rows]


def _sequences(views: Sequence[ModelView]) -> list[Family]:
    """Of the models that keep sequences apart."""
    kept = [(view, view.queue.sequences) for view in views if view.queue.sequences is not None]
    if not kept:
        return []
    rows: tuple[tuple[str, str, Callable[[SequenceStats], int]], ...] = (
        ("penstock_sequences_live", "Sequences that have a slot", lambda stats: stats.live),
        ("penstock_sequences_backlog", "Sequences that wait for one", lambda stats: stats.backlog),
    )
    return [
        Family(
            name,
            "gauge",
            help_,
            tuple(Sample(value(stats), model_labels(view.statistics)) for view, stats in kept),
        )
        for name, help_, value in rows
    ]


def _caches(views: Sequence[ModelView]) -> list[Family]:
    cached = [view for view in views if view.statistics.response_cache]
    if not cached:
        return []
    counts = (
        ("nv_cache_num_hits_per_model", "cache_hit.count", "Requests answered from the cache"),
        ("nv_cache_num_misses_per_model", "cache_miss.count", "Requests not found in the cache"),
    )
    durations = (
        ("nv_cache_hit_duration_per_model", "cache_hit.ns", "Microseconds of lookups that hit"),
        (
            "nv_cache_miss_duration_per_model",
            "cache_miss.ns",
            "Microseconds of lookups that missed",
        ),
    )
    return [*_counters(counts, cached), *_counters(durations, cached, unit=1000)]


def _latency_counters(views: Sequence[ModelView]) -> list[Family]:
    rows = [
        (
            f"nv_inference_{phase}_duration_us",
            "success.ns" if phase == "request" else f"{phase}.ns",
            f"Microseconds {what}, summed over requests",
        )
        for phase, what in _PHASES
    ]
    return _counters(rows, views, unit=1000)


def _first_response_ms(views: Sequence[ModelView]) -> Family:
    samples = (
        sample
        for view in views
        if view.statistics.decoupled
        for sample in histogram_samples(
            model_labels(view.statistics), view.statistics.first_response_buckets, 1e6
        )
    )
    help_ = "Milliseconds from the arrival of a request to its first response"
    return Family(FIRST_RESPONSE_FAMILY, "histogram", help_, tuple(samples))


def _summaries(views: Sequence[ModelView], quantiles: Sequence[float]) -> list[Family]:
    families = [
        _summary(
            f"nv_inference_{phase}_summary_us", f"Microseconds {what}", phase, views, quantiles
        )
        for phase, what in _PHASES
    ]
    cached = [view for view in views if view.statistics.response_cache]
    if not cached:
        return families
    return families + [
        _summary(f"nv_{phase}_summary_per_model", f"Microseconds {what}", phase, cached, quantiles)
        for phase, what in _LOOKUPS
    ]


def _summary(
    name: str, text: str, phase: str, views: Sequence[ModelView], quantiles: Sequence[float]
) -> Family:
    samples = (
        sample
        for view in views
        for sample in summary_samples(
            model_labels(view.statistics), _phase(view, phase), quantiles, 1e3
        )
    )
    return Family(name, "summary", text, tuple(samples))


def _histograms(views: Sequence[ModelView]) -> list[Family]:
    families = [
        _histogram(f"penstock_{phase}_duration_seconds", f"Seconds {what}", phase, views)
        for phase, what in _PHASES
    ]
    streams = [view for view in views if view.statistics.decoupled]
    help_ = "Seconds from the arrival of a request to its first response, of decoupled models"
    name = "penstock_first_response_duration_seconds"
    families.append(_histogram(name, help_, "first_response", streams))
    rows = (
        sample
        for view in views
        for sample in histogram_samples(model_labels(view.statistics), view.statistics.batch_rows)
    )
    return [
        *families,
        Family("penstock_batch_rows", "histogram", "Rows per execution", tuple(rows)),
    ]


def _histogram(name: str, help_: str, phase: str, views: Sequence[ModelView]) -> Family:
    samples = (
        sample
        for view in views
        for sample in histogram_samples(
            model_labels(view.statistics), _phase(view, phase).coarsen(EXPORTED_BOUNDS_NS), 1e9
        )
    )
    return Family(name, "histogram", help_, tuple(samples))


def _phase(view: ModelView, phase: str) -> HistogramSnapshot:
    found: HistogramSnapshot = getattr(view.statistics.latency, phase)
    return found
