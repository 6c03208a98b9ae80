"""Axes for plots: places on linear, logarithmic and percentile scales, round ticks, short labels.
Pure.
"""

from dataclasses import dataclass
from math import ceil, floor, log10


@dataclass(frozen=True, slots=True)
class LogScale:
    """Maps [low, high] (above 0) to 0..1 by their logarithms."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """The place of a value, kept within 0..1."""
        span = log10(self.high / self.low) or 1.0
        place = log10(max(value, self.low) / self.low) / span
        return min(max(place, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, or the powers alone over more than three of them."""
        steps = (1, 2, 5) if self.high / self.low < 1e3 else (1,)
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps]
        return [tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001]


@dataclass(frozen=True, slots=True)
class LinearScale:
    """Maps [0, high] to 0..1."""

    high: float

    def __call__(self, value: float) -> float:
        """The place of a value, kept within 0..1."""
        return min(max(value / self.high, 0.0), 1.0) if self.high else 0.0

    def ticks(self, most: int = 6) -> list[float]:
        """At most so many round numbers from 0 on."""
        step = round_up(self.high / (most - 1))
        return [i * step for i in range(most) if i * step <= self.high * 1.0001]


@dataclass(frozen=True, slots=True)
class NinesScale:
    """Maps shares to 0..1 so that each further nine (90 %, 99 %, 99.9 %) takes as much room."""

    nines: float

    def __call__(self, share: float) -> float:
        """The place of a share; those beyond the scale stand at its end."""
        rest = max(1.0 - share, 10.0**-self.nines)
        return min(-log10(rest) / self.nines, 1.0)

    def ticks(self) -> list[float]:
        """0, 50 % and the nines."""
        found = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
        return [share for share in found if 1.0 - share >= 10.0**-self.nines * 0.999]


def around(values: list[float], least_ratio: float = 4.0) -> LogScale:
    """A logarithmic scale that ends at round numbers (1, 2, 5 times a power of ten) around these;
    values of 0 are left out.
    """
    found = [value for value in values if value > 0] or [1.0]
    low, high = round_down(min(found)), round_up(max(found))
    while high / low < least_ratio:
        high = round_up(high * 1.5)
    return LogScale(low, high)


def round_up(value: float) -> float:
    """The next number of the form 1, 2 or 5 times a power of ten; 0 for 0."""
    if not value:
        return 0.0
    power = 10.0 ** floor(log10(value))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= value * 0.9999)


def round_down(value: float) -> float:
    """The last number of that form that is not above this one (above 0)."""
    power = 10.0 ** floor(log10(value))
    return power * next(step for step in (5, 2, 1) if step * power <= value * 1.0001)


def duration(ms: float) -> str:
    """A time with three digits and its unit."""
    if not ms:
        return "0 ms"
    if ms >= 1000:
        return f"{_three(ms / 1000)} s"
    return f"{_three(ms)} ms" if ms >= 0.1 else f"{_three(ms * 1000)} us"


def _three(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def amount(value: float) -> str:
    """A number with at most three digits and k or M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def short(value: float) -> str:
    """A tick's label: no trailing zeros."""
    return f"{value:,.10g}"
