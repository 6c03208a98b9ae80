"""From the readings of several rounds to medians, ratios and verdicts. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from benchmarks.side_by_side.cases import Figure, Floor

HOLDS, BROKEN = "holds", "BROKEN"
BUSY = 0.9
"""Of a core, used by the load generator: above it the server could have done more."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One window of load on one server: rates a second, CPU in cores, the memory of all its
    processes in MB (10^6 bytes), calls that failed.
    """

    per_s: float
    per_cpu_s: float
    responses_per_s: float
    p50_ms: float
    p99_ms: float
    client_cpu: float
    resident_mb: float
    errors: float = 0

    def of(self, figure: Figure) -> float:
        """The value of a figure."""
        value: float = getattr(self, figure.field)
        return value


@dataclass(frozen=True, slots=True)
class Verdict:
    """A floor and what was found, None if one of the two servers was not measured."""

    floor: Floor
    ratio: float | None

    @property
    def holds(self) -> bool:
        """Whether the floor was measured and reached."""
        if self.ratio is None:
            return False
        if self.floor.figure.less:
            return self.ratio <= self.floor.bound
        return self.ratio > self.floor.bound or (
            self.ratio == self.floor.bound and not self.floor.above
        )

    @property
    def word(self) -> str:
        """What the tables say."""
        return "not measured" if self.ratio is None else HOLDS if self.holds else BROKEN


def median_of(rounds: Sequence[Reading]) -> Reading:
    """The median of each field; of the errors the sum, since none may be lost."""
    found = {
        field.name: statistics.median(getattr(each, field.name) for each in rounds)
        for field in fields(Reading)
    }
    return Reading(**{**found, "errors": sum(each.errors for each in rounds)})


def spread_of(rounds: Sequence[Reading], figure: Figure) -> float:
    """How far apart the rounds lie: their range over their median."""
    values = [each.of(figure) for each in rounds]
    return (max(values) - min(values)) / (statistics.median(values) or 1.0)


def ratio(figure: Figure, ours: Reading | None, theirs: Reading | None) -> float | None:
    """How many times the figure of theirs ours is; None if either is missing or has none."""
    if ours is None or theirs is None or not theirs.of(figure) or not ours.of(figure):
        return None
    return ours.of(figure) / theirs.of(figure)


def judge(floors: Sequence[Floor], medians: Mapping[str, Reading]) -> list[Verdict]:
    """A verdict on each floor, from the medians of each server."""
    return [
        Verdict(each, ratio(each.figure, medians.get(each.ours), medians.get(each.against)))
        for each in floors
    ]


def reading_of(printed: Mapping[str, float], resident_mb: float, lost: int = 0) -> Reading:
    """What a load generator printed as a reading; `lost` are idle connections that were closed."""
    seconds = printed.get("seconds", 0.0) or 1.0
    cpu, answered = printed.get("server_cpu_s", 0.0), printed.get("ok", 0)
    return Reading(
        per_s=printed.get("rps", 0.0),
        per_cpu_s=answered / cpu if cpu else 0.0,
        responses_per_s=printed.get("msgs_per_s", 0.0),
        p50_ms=printed.get("p50_ms", 0.0),
        p99_ms=printed.get("p99_ms", 0.0),
        client_cpu=printed.get("client_cpu_s", 0.0) / seconds,
        resident_mb=resident_mb,
        errors=printed.get("errors", 0) + lost,
    )
