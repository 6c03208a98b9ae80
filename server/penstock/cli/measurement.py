"""What a load gave: latencies into percentiles, counts into rates. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted while `concurrency` requests were in flight for `elapsed_ns`.

    `latencies_ns` has one entry for each request that succeeded, `messages` counts the responses;
    the CPU times are seconds, None where they are not to be had.
    """

    concurrency: int
    elapsed_ns: int
    latencies_ns: Sequence[int]
    messages: int
    errors: Mapping[str, int]
    client_cpu_s: float
    server_cpu_s: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one sample; latencies in milliseconds, CPU in cores."""

    concurrency: int
    requests: int
    requests_per_s: float
    messages_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    client_cpu: float
    server_cpu: float | None
    requests_per_cpu_s: float | None


def summarise(sample: Sample) -> Summary:
    """The figures of a sample; latencies are 0 where nothing succeeded."""
    ordered = sorted(sample.latencies_ns)
    seconds = max(sample.elapsed_ns / _NS, 1e-9)
    server = sample.server_cpu_s
    return Summary(
        concurrency=sample.concurrency,
        requests=len(ordered),
        requests_per_s=len(ordered) / seconds,
        messages_per_s=sample.messages / seconds,
        p50_ms=percentile(ordered, 0.50) / 1e6,
        p90_ms=percentile(ordered, 0.90) / 1e6,
        p99_ms=percentile(ordered, 0.99) / 1e6,
        max_ms=(ordered[-1] if ordered else 0) / 1e6,
        errors=sum(sample.errors.values()),
        client_cpu=sample.client_cpu_s / seconds,
        server_cpu=None if server is None else server / seconds,
        requests_per_cpu_s=len(ordered) / server if server else None,
    )


def percentile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that this share of the sorted values does not exceed; 0 for none."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)] if ordered else 0
