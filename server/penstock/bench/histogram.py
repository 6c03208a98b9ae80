"""Latencies in bounded memory: counts in buckets that are never wider than 1/1024 of what they
hold (the layout of HdrHistogram), so that percentiles are right to a tenth of a percent whatever
the range.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 10
_SPAN = 1 << PRECISION_BITS
MOST_NS = (1 << 42) - 1
"""The longest time that is told apart, 73 minutes; `most` is exact beyond it too."""
_BUCKETS = (42 - PRECISION_BITS) * _SPAN + _SPAN
_FOLD = 4096

Share = float | Fraction


@dataclass(frozen=True, slots=True)
class Bin:
    """How many values lie in [low, high), ns."""

    low: int
    high: int
    count: int


class Histogram:
    """Counts of non-negative ints (ns)."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BUCKETS, np.int64)
        self.count = 0
        self.total = 0
        self.least = 0
        self.most = 0

    def add_all(self, values: Iterable[int] | NDArray[np.int64]) -> None:
        """Count these values; negative ones count as 0."""
        found = values if isinstance(values, np.ndarray) else np.array(list(values), np.int64)
        if not found.size:
            return
        found = np.maximum(found, 0)
        least, most = int(found.min()), int(found.max())
        self.least = min(self.least, least) if self.count else least
        self.most = max(self.most, most)
        self.count += found.size
        self.total += int(found.sum())
        np.add.at(self._counts, _bucket(np.minimum(found, MOST_NS)), 1)

    @property
    def mean(self) -> float:
        """The exact mean; 0 for none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: Share, beyond: int = 0) -> float:
        """The smallest value that this share (0 to 1) of all values does not exceed.

        It is never less than the exact one, and more by at most 1/1024 of it; 0 for no values.
        `beyond` further values count as infinitely large. A share that no float is, such as 0.999,
        is exact as a fraction: as a float it may be one rank off.
        """
        return self.percentiles((share,), beyond)[0]

    def percentiles(self, shares: Sequence[Share], beyond: int = 0) -> list[float]:
        """`percentile` of each share."""
        up_to = np.cumsum(self._counts)
        return [self._at(share, beyond, up_to) for share in shares]

    def _at(self, share: Share, beyond: int, up_to: NDArray[np.int64]) -> float:
        if not self.count and not beyond:
            return 0.0
        rank = max(ceil(share * (self.count + beyond)), 1)
        if rank > self.count:
            return float("inf")
        bucket = int(np.searchsorted(up_to, rank))
        return float(min(max(_edge(bucket + 1) - 1, self.least), self.most))

    def bins(self, an_octave: int = 4) -> list[Bin]:
        """The shape: bins of equal ratio, so many to a factor of 2, from the least to the most."""
        if not self.count:
            return []
        filled = np.flatnonzero(self._counts)
        middles = np.array([(_edge(int(b)) + _edge(int(b) + 1) - 1) / 2 for b in filled])
        places = np.floor(np.log2(np.maximum(middles, 1)) * an_octave).astype(np.int64)
        counts = np.bincount(places - places[0], weights=self._counts[filled])
        return [
            Bin(_power(place, an_octave), _power(place + 1, an_octave), int(count))
            for place, count in enumerate(counts, int(places[0]))
        ]


class Recorder:
    """A histogram for values that come one at a time: `add` costs an append. Whoever adds calls
    `fold` now and then, which bounds the memory.
    """

    def __init__(self) -> None:
        self._fresh: array[int] = array("q")
        self.add = self._fresh.append
        self.extend = self._fresh.extend
        self._folded = Histogram()

    def fold(self) -> None:
        """Move what has gathered into the histogram, if it is worth it."""
        if len(self._fresh) >= _FOLD:
            self._move()

    @property
    def histogram(self) -> Histogram:
        """All that was added."""
        self._move()
        return self._folded

    def _move(self) -> None:
        self._folded.add_all(np.array(self._fresh, np.int64))
        del self._fresh[:]


def _bucket(values: NDArray[np.int64]) -> NDArray[np.int64]:
    # A double holds every value up to MOST_NS exactly, so its exponent is the bit length.
    lengths = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    shifts = np.maximum(lengths - (PRECISION_BITS + 1), 0)
    return (shifts << PRECISION_BITS) + (values >> shifts)


def _edge(bucket: int) -> int:
    """The least value of a bucket."""
    if bucket < 2 * _SPAN:
        return bucket
    shift = (bucket >> PRECISION_BITS) - 1
    return (_SPAN + (bucket & (_SPAN - 1))) << shift


def _power(place: int, an_octave: int) -> int:
    return round(2 ** (place / an_octave))
