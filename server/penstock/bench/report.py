"""A run as text: the table, the warnings below it, CSV, and the table of ratios. Pure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from penstock.bench.compare import Ratios
from penstock.bench.scales import duration
from penstock.bench.summary import NESTED, Summary

_CLOSED, _OPEN = "IN FLIGHT", "RATE"
_HEAD = ("REQ/S", "MEAN", "P50", "P90", "P95", "P99", "P99.9", "MAX", "ERRORS")
_STREAMED = ("MSG/S", "FIRST P50", "FIRST P99", "GAP P50", "GAP P99")
_CPU = ("SERVER CPU", "REQ/CPU-S", "CLIENT CPU")
_LATE_MS = 1.0
COMPARED = ("REQ/S", "P50", "P99", "REQ/CPU-S", "MSG/S")
COLUMNS = tuple(each.name for each in fields(Summary) if each.name not in NESTED)

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""The head, and the rows."""


def label_of(row: Summary) -> str:
    """The load of a row, in words."""
    if row.rate is None:
        return f"{row.concurrency} in flight"
    return f"{row.rate:,.10g}/s{' poisson' if row.arrivals == 'poisson' else ''}"


def table_of(rows: Sequence[Summary], streamed: bool) -> Table:
    """The figures, a row for each load."""
    first = _OPEN if any(row.rate is not None for row in rows) else _CLOSED
    head = (first, *_HEAD, *(_STREAMED if streamed else ()), *_CPU)
    return head, [_row(row, streamed) for row in rows]


def _row(row: Summary, streamed: bool) -> tuple[str, ...]:
    latencies = (row.mean_ms, row.p50_ms, row.p90_ms, row.p95_ms, row.p99_ms, row.p999_ms)
    gaps = (row.first_p50_ms, row.first_p99_ms, row.gap_p50_ms, row.gap_p99_ms)
    messages = (f"{row.messages_per_s:,.0f}", *(_time(each) for each in gaps))
    server, per_cpu = row.server_cpu, row.requests_per_cpu_s
    return (
        f"{row.rate:,.10g}" if row.rate is not None else str(row.concurrency),
        f"{row.requests_per_s:,.0f}{'' if row.kept else '!'}",
        *(_time(each if row.requests else None) for each in (*latencies, row.max_ms)),
        f"{row.errors:,}",
        *(messages if streamed else ()),
        "-" if server is None else f"{server:.2f}",
        "-" if per_cpu is None else f"{per_cpu:,.0f}",
        f"{row.client_cpu:.2f}{'!' if row.client_bound else ''}",
    )


def _time(ms: float | None) -> str:
    return "-" if ms is None else duration(ms)


def warnings_of(rows: Sequence[Summary]) -> list[str]:
    """What the reader has to know before believing the rows, in plain sentences."""
    found = [_could_not_keep(row) for row in rows if not row.kept]
    found += [
        f"{label_of(row)}: this client used {row.client_cpu:.0%} of a core, so it is the client"
        " that was measured; use less load, or several clients at once"
        for row in rows
        if row.client_bound
    ]
    if late := [row for row in rows if row.kept and _is_late(row)]:
        most = max(row.sent_late_p99_ms or 0 for row in late)
        found.append(
            f"{', '.join(map(label_of, late))}: calls were sent late (p99 {_time(most)}), so this"
            " machine is too busy to measure such latencies; see what else runs on it"
        )
    return found + [text for row in rows for text in _errors(row)]


def _errors(row: Summary) -> list[str]:
    ordered = sorted(row.errors_by_status.items(), key=lambda item: -int(str(item[1]["count"])))
    return [
        f"{label_of(row)}: {each['count']} x {status}: {each['first']}" for status, each in ordered
    ]


def _is_late(row: Summary) -> bool:
    late = row.sent_late_p99_ms
    return late is not None and late > _LATE_MS and late > row.p99_ms / 2


def _could_not_keep(row: Summary) -> str:
    said = f"{label_of(row)}: could not keep the rate: {row.requests_per_s:,.0f}/s were answered"
    if row.unsent:
        said += f", {row.unsent:,} calls that were due were never sent"
    return said + "; latencies count from when a call was due"


def csv_of(rows: Sequence[Summary]) -> str:
    """The plain figures as CSV with a head."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(asdict(row))
    return out.getvalue()


def ratios_of(rows: Sequence[Summary], ratios: Sequence[Ratios | None]) -> Table:
    """New over old for each load."""
    head = ("NEW / OLD", *COMPARED)
    return head, [
        (label_of(row), *(_times(value) for value in _values(each)))
        for row, each in zip(rows, ratios, strict=True)
    ]


def _values(ratios: Ratios | None) -> tuple[float | None, ...]:
    return (None,) * len(COMPARED) if ratios is None else ratios.values


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
