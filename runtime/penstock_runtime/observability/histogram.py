"""Fixed-bucket histograms over integers (mostly nanoseconds): cheap to feed, exact to merge.

They know nothing of locks: whoever owns one guards it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat

from penstock_runtime.errors import Internal

# Renard's series R10: ten steps a decade, each about 1.26 times the one before, with 1, 2 and 5
# among them, so that what is exported can be a plain 1-2-5 scale of the same counts.
_R10 = (1000, 1250, 1600, 2000, 2500, 3150, 4000, 5000, 6300, 8000)

# 1 us to 800 s.
DURATION_BOUNDS_NS = tuple(step * 10**decade for decade in range(9) for step in _R10)

# 10 us to 50 s in steps of 1-2-5: what a scrape shows of a duration.
EXPORTED_BOUNDS_NS = tuple(step * 10**decade for decade in range(4, 11) for step in (1, 2, 5))

# 1 to 4096 rows.
ROW_BOUNDS = tuple(2**power for power in range(13))


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """What a histogram held at one moment.

    `counts` has one number per bound (values up to and including it, and above the bound before)
    and a last one for what is above them all; `total` is the sum of the values.
    """

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    total: int

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def cumulative(self) -> tuple[int, ...]:
        """Per bound how many values are not above it; the last number is `count`."""
        return tuple(accumulate(self.counts))

    def merge(self, other: "HistogramSnapshot") -> "HistogramSnapshot":
        """Both together, exactly; their bounds must be the same."""
        if self.bounds != other.bounds:
            raise Internal(
                f"histograms of {len(self.bounds)} and {len(other.bounds)} bounds cannot be merged:"
                " their bounds must be equal"
            )
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return HistogramSnapshot(self.bounds, counts, self.total + other.total)

    def coarsen(self, bounds: Sequence[int]) -> "HistogramSnapshot":
        """The same values over fewer bounds; each of them must be one of this histogram's."""
        missing = sorted(set(bounds) - set(self.bounds))
        if missing:
            raise Internal(f"bound {missing[0]} is not one of the histogram's {len(self.bounds)}")
        below = dict(zip(self.bounds, self.cumulative(), strict=False))
        steps = [0, *(below[bound] for bound in sorted(bounds)), self.count]
        counts = tuple(after - before for before, after in pairwise(steps))
        return HistogramSnapshot(tuple(sorted(bounds)), counts, self.total)

    def quantile(self, q: float) -> float:
        """The value below which the part `q` of all values lies, interpolated inside its bucket.

        NaN for an empty histogram; never above the highest bound.
        """
        if not 0 <= q <= 1:
            raise Internal(f"quantile {q} is not between 0 and 1")
        rank = q * self.count
        lower = 0
        before = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and before + count >= rank:
                return lower + (bound - lower) * max(rank - before, 0) / count
            before += count
            lower = bound
        return float(lower) if self.count else float("nan")


class Histogram:
    """Counts integers into fixed buckets; a value equal to a bound belongs below it."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[int] = DURATION_BOUNDS_NS) -> None:
        if any(low >= high for low, high in pairwise(bounds)):
            raise Internal(f"histogram bounds must increase, got {list(bounds)}")
        # A histogram of one scale shares the scale's tuple.
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0

    def observe(self, value: int, weight: int = 1) -> None:
        """Count one value `weight` times."""
        self._counts[bisect_left(self._bounds, value)] += weight
        self._total += value * weight

    def observe_all(self, values: Sequence[int]) -> None:
        """Count each of the values; cheaper than one call each."""
        counts = self._counts
        # All of it but the addition in C.
        for at in map(bisect_left, repeat(self._bounds), values):
            counts[at] += 1
        self._total += sum(values)

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def snapshot(self) -> HistogramSnapshot:
        """What has been counted until now."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)

    def __repr__(self) -> str:
        return f"Histogram({len(self._bounds)} bounds, {sum(self._counts)} values)"
