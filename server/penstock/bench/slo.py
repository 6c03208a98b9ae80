"""What a measurement must show: `p99<20ms,errors<0.1%` as limits, and whether they are met. Pure.

A call that failed, and one that was due and never sent, is later than any limit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from penstock.bench.histogram import Histogram, Share
from penstock.bench.sample import Sample

_TERM = re.compile(
    r"(?P<name>(?:(?:first|gap)\.)?p\d{1,2}(?:\.\d+)?|mean|max|errors|rate)"
    r"(?P<order>[<>])=?(?P<number>\d+(?:\.\d+)?)(?P<unit>us|ms|s|%|/s|)"
)
_UNITS_NS = {"us": 1e3, "ms": 1e6, "s": 1e9}
EXPECTED = "terms like p99<20ms, mean<5ms, max<1s, first.p99<50ms, errors<0.1%, rate>1000"


@dataclass(frozen=True, slots=True)
class Limit:
    """One term. `bound` is in ns for latencies, a share for errors, calls a second for the rate."""

    text: str
    name: str
    order: Literal["<", ">"]
    bound: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A limit and the value that it was held against."""

    limit: Limit
    value: float

    @property
    def met(self) -> bool:
        """Whether the value keeps the limit; `<` and `<=` are the same, as are `>` and `>=`."""
        bound = self.limit.bound
        return self.value <= bound if self.limit.order == "<" else self.value >= bound

    def __str__(self) -> str:
        verb = "met" if self.met else "missed"
        return f"{self.limit.text} {verb}: {_show(self.limit.name, self.value)}"


def parse_slo(text: str) -> tuple[Limit, ...]:
    """The limits of a text, with commas between; ValueError names the term that is none."""
    return tuple(_limit(term.replace(" ", "")) for term in text.split(","))


def _limit(text: str) -> Limit:
    found = _TERM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no limit, expected {EXPECTED}")
    name, unit, number = found["name"], found["unit"], float(found["number"])
    if unit not in _units_of(name):
        expected = " or ".join(each or "a plain number" for each in _units_of(name))
        raise ValueError(f"{text!r} has the unit {unit!r}, expected {expected} for {name}")
    scale = 0.01 if unit == "%" else _UNITS_NS.get(unit, 1.0)
    return Limit(text, name, "<" if found["order"] == "<" else ">", number * scale)


def _units_of(name: str) -> tuple[str, ...]:
    if name == "errors":
        return ("%",)
    return ("", "/s") if name == "rate" else tuple(_UNITS_NS)


def judge(limits: Sequence[Limit], sample: Sample) -> list[Verdict]:
    """Every limit held against a sample."""
    return [Verdict(limit, _value(limit.name, sample)) for limit in limits]


def _value(name: str, sample: Sample) -> float:
    beyond = sample.failures + sample.unsent
    asked = sample.latencies.count + beyond
    if name == "errors":
        return beyond / asked if asked else 1.0
    if name == "rate":
        return sample.calls_per_s
    if name == "mean":
        return sample.latencies.mean if asked and not beyond else float("inf")
    if name == "max":
        return _percentile(sample.latencies, 1.0, beyond)
    kind, _, percentile = name.rpartition("p")
    histogram = {"first.": sample.first, "gap.": sample.gaps}.get(kind, sample.latencies)
    return _percentile(histogram, Fraction(percentile) / 100, 0 if kind == "gap." else beyond)


def _percentile(histogram: Histogram, share: Share, beyond: int) -> float:
    """Where nothing was measured, nothing is met."""
    return histogram.percentile(share, beyond) if histogram.count else float("inf")


def _show(name: str, value: float) -> str:
    if name == "errors":
        return f"{value:.3%}"
    if name == "rate":
        return f"{value:,.0f}/s"
    return f"{value / 1e6:.3f} ms" if value != float("inf") else "never"
