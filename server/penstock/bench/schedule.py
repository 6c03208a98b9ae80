"""When the calls of an open loop are due: at even distances, or as a Poisson process. Pure; the
times are offsets in ns from the beginning, and no schedule holds more than one chunk of them.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

Kind = Literal["fixed", "poisson"]
KINDS: tuple[Kind, ...] = ("fixed", "poisson")
CHUNK = 1024
_NS = 1_000_000_000


class Arrivals(Protocol):
    """An endless sequence of times, cut into chunks."""

    def chunk(self) -> list[int]:
        """The next CHUNK times, none smaller than the one before."""


class FixedArrivals:
    """Call i is due at i / rate, exactly: rounded down to a ns, without any drift."""

    def __init__(self, rate: float) -> None:
        per_second = Fraction(rate).limit_denominator(1_000_000)
        if per_second <= 0:
            raise ValueError(f"rate {rate} is too small, expected at least 1e-6 calls a second")
        self._times, self._over = _NS * per_second.denominator, per_second.numerator
        self._next = 0

    def chunk(self) -> list[int]:
        """The next CHUNK times."""
        first, times, over = self._next, self._times, self._over
        self._next = first + CHUNK
        return [i * times // over for i in range(first, first + CHUNK)]


class PoissonArrivals:
    """Independent calls: the gaps are exponential with mean 1 / rate. The same seed, the same."""

    def __init__(self, rate: float, seed: int = 0) -> None:
        self._mean_ns = _NS / rate
        self._generator = np.random.default_rng(seed)
        self._last = 0.0

    def chunk(self) -> list[int]:
        """The next CHUNK times."""
        times = self._last + np.cumsum(self._generator.exponential(self._mean_ns, CHUNK))
        self._last = float(times[-1])
        found: list[int] = times.astype(np.int64).tolist()
        return found


def arrivals(kind: Kind, rate: float, seed: int = 0) -> Arrivals:
    """The arrivals of this kind at `rate` calls a second."""
    return FixedArrivals(rate) if kind == "fixed" else PoissonArrivals(rate, seed)


class Schedule:
    """A place in a sequence of arrivals: what is due by some time and was not taken yet."""

    def __init__(self, source: Arrivals, origin: int) -> None:
        """`origin` is the time (ns) that the offsets count from."""
        self._next_chunk: Callable[[], list[int]] = source.chunk
        self._origin = origin
        self._chunk: list[int] = []
        self._at = 0

    @property
    def next_due(self) -> int:
        """When the first call that was not taken is due."""
        if self._at >= len(self._chunk):
            origin = self._origin
            self._chunk = [origin + offset for offset in self._next_chunk()]
            self._at = 0
        return self._chunk[self._at]

    def take(self, now: int, most: int) -> Sequence[int]:
        """At most `most` of the calls due by `now`, oldest first; none only if there are none."""
        if most <= 0 or self.next_due > now:
            return ()
        first = self._at
        stop = bisect_right(self._chunk, now, first, min(first + most, len(self._chunk)))
        self._at = stop
        return self._chunk[first:stop]

    def skip(self, until: int) -> int:
        """Pass over all calls due before `until`; how many they were."""
        passed = 0
        while taken := self.take(until - 1, CHUNK):
            passed += len(taken)
        return passed
