"""What a comparison found, in words and columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report import Finding
from benchmarks.side_by_side.cases import HTTP2, TRITON, Case
from benchmarks.side_by_side.readings import (
    BUSY,
    HOLDS,
    Reading,
    Verdict,
    judge,
    median_of,
    ratio,
    spread_of,
)

from penstock.bench.scales import amount, duration

HEAD = (
    "SERVER",
    "REQ/S",
    "REQ/CPU-S",
    "P50",
    "P99",
    "RESPONSES/S",
    "RSS MB",
    "SPREAD",
    "CLIENT CPU",
    "ERRORS",
    "OVER TRITON",
)


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one case."""

    case: Case
    rounds: Mapping[str, Sequence[Reading]]

    @property
    def medians(self) -> dict[str, Reading]:
        """Of each server that was measured, in the order of the case."""
        return {
            peer: median_of(self.rounds[peer]) for peer in self.case.peers if peer in self.rounds
        }

    @property
    def verdicts(self) -> list[Verdict]:
        """On each floor of the case."""
        return judge(self.case.floors, self.medians)


def finding_of(result: Result) -> Finding:
    """The table of one case, and its row for the record."""
    rows = [_row(result, peer, median) for peer, median in result.medians.items()]
    return Finding(f"floors: {result.case.title}", HEAD, rows, summary_of(result))


def _row(result: Result, peer: str, median: Reading) -> tuple[str, ...]:
    figure = result.case.figure
    return (
        peer,
        f"{median.per_s:,.0f}",
        f"{median.per_cpu_s:,.0f}",
        duration(median.p50_ms),
        duration(median.p99_ms),
        f"{median.responses_per_s:,.0f}",
        f"{median.resident_mb:,.0f}",
        f"{spread_of(result.rounds[peer], figure):.0%}",
        f"{median.client_cpu:.2f}{'!' if median.client_cpu > BUSY else ''}",
        f"{median.errors:,.0f}",
        times(ratio(figure, median, result.medians.get(TRITON))),
    )


def summary_of(result: Result) -> str:
    """The figures of a case in one line, then its floors."""
    label = result.case.figure.label
    figures = [
        f"{peer} {amount(median.of(result.case.figure))} {label} (p99 {duration(median.p99_ms)})"
        for peer, median in result.medians.items()
    ]
    return "; ".join([", ".join(figures), *map(sentence, result.verdicts)])


def sentence(verdict: Verdict) -> str:
    """A floor and what came of it."""
    return f"{verdict.floor}: {times(verdict.ratio)}, {verdict.word}"


def times(value: float | None) -> str:
    """A ratio with about three digits."""
    return "-" if value is None else f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}x"


def notes_of(results: Sequence[Result]) -> list[str]:
    """What the reader has to know before believing the tables."""
    bound = [
        result.case.name
        for result in results
        if HTTP2 in result.medians and result.medians[HTTP2].client_cpu > BUSY
    ]
    if not bound:
        return []
    return [
        f"{', '.join(bound)}: the load generator used its whole core, so that {HTTP2} could answer"
        " more a second than this; req/cpu-s suffers less. --gload measures with another one"
    ]


def overview(results: Sequence[Result], others: Sequence[tuple[str, str, str]] = ()) -> Finding:
    """Every floor with its verdict; `others` are floors that no load belongs to."""
    rows = [
        (f"{result.case.name}: {each.floor}", times(each.ratio), each.word)
        for result in results
        for each in result.verdicts
    ] + list(others)
    held = sum(row[2] == HOLDS for row in rows)
    broken = [f"{row[0]} ({row[1]})" for row in rows if row[2] != HOLDS]
    text = f"{held} of {len(rows)} floors hold" + (f"; not: {', '.join(broken)}" if broken else "")
    return Finding("floors", ("FLOOR", "FOUND", "VERDICT"), rows, text)
