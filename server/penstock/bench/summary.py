"""The figures of one load, as a row of the table, of the JSON and of the CSV. Pure."""

from dataclasses import dataclass
from fractions import Fraction

from penstock.bench.histogram import Histogram, Share
from penstock.bench.sample import Sample

P50, P99 = Fraction(50, 100), Fraction(99, 100)
_SHARES = (P50, Fraction(90, 100), Fraction(95, 100), P99, Fraction(999, 1000))
CURVE = (*(round(1 - 10 ** (-step / 8), 6) for step in range(41)), 1.0)
"""Where a latency curve has its points: eight to each further nine."""
BUSY = 0.9
"""Of a core, used by this process: above it the client is what is measured."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Latencies in milliseconds, CPU in cores; None where there is no such figure.

    `latency_curve` has pairs of share and milliseconds, `histogram` the upper edge of each bin in
    milliseconds and its count, `errors_by_status` a count and the first text of each status.
    """

    model: str
    client: str
    connections: int
    concurrency: int | None
    rate: float | None
    arrivals: str | None
    seconds: float
    requests: int
    requests_per_s: float
    messages_per_s: float
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: int
    unsent: int
    kept: bool
    sent_late_p99_ms: float | None
    first_p50_ms: float | None
    first_p99_ms: float | None
    gap_p50_ms: float | None
    gap_p99_ms: float | None
    client_cpu: float
    client_bound: bool
    server_cpu: float | None
    requests_per_cpu_s: float | None
    errors_by_status: dict[str, dict[str, object]]
    latency_curve: list[tuple[float, float]]
    histogram: list[tuple[float, int]]


NESTED = ("errors_by_status", "latency_curve", "histogram")
"""Fields that are no plain value."""


def summarise(sample: Sample, model: str, client: str, connections: int) -> Summary:
    """The figures of a sample; latencies are 0 where nothing succeeded."""
    latencies, server = sample.latencies, sample.server_cpu_s
    p50, p90, p95, p99, p999 = (each / 1e6 for each in latencies.percentiles(_SHARES))
    client_cpu = sample.client_cpu_s / sample.seconds
    return Summary(
        model=model,
        client=client,
        connections=connections,
        concurrency=sample.level.concurrency,
        rate=sample.level.rate,
        arrivals=sample.level.arrivals if sample.level.rate is not None else None,
        seconds=sample.seconds,
        requests=latencies.count,
        requests_per_s=sample.calls_per_s,
        messages_per_s=sample.messages / sample.seconds,
        mean_ms=latencies.mean / 1e6,
        min_ms=latencies.least / 1e6,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=latencies.most / 1e6,
        errors=sample.failures,
        unsent=sample.unsent,
        kept=sample.kept,
        sent_late_p99_ms=_percentile(sample.lateness, P99),
        first_p50_ms=_percentile(sample.first, P50),
        first_p99_ms=_percentile(sample.first, P99),
        gap_p50_ms=_percentile(sample.gaps, P50),
        gap_p99_ms=_percentile(sample.gaps, P99),
        client_cpu=client_cpu,
        client_bound=client_cpu > BUSY,
        server_cpu=None if server is None else server / sample.seconds,
        requests_per_cpu_s=sample.completed / server if server else None,
        errors_by_status={
            status: {"count": each.count, "first": each.first}
            for status, each in sample.errors.items()
        },
        latency_curve=_curve(latencies),
        histogram=[(each.high / 1e6, each.count) for each in latencies.bins()],
    )


def _curve(latencies: Histogram) -> list[tuple[float, float]]:
    values = latencies.percentiles(CURVE)
    return [(share, value / 1e6) for share, value in zip(CURVE, values, strict=True)]


def _percentile(histogram: Histogram, share: Share) -> float | None:
    return histogram.percentile(share) / 1e6 if histogram.count else None
