"""What is known of a model's executions: how long a batch of so many rows takes, learned online.

Pure. A straight line through what was seen, newer executions counting more, and how far above it
one in a hundred lies. One line fits a device that works row by row, and one that takes most of its
time however few rows there are; where neither is true it errs between the sizes that occur.
"""

from typing import NamedTuple

from penstock_runtime.scheduling.predictor import WaitPredictor

# What an observation still counts after one more: half of it after 70.
_MEMORY = 0.99
_QUANTILE = 0.99
_STEP = 0.05
_MOST_RATIO = 20.0
ENOUGH_EXECUTIONS = 16


class _Sums(NamedTuple):
    """What was seen, the newer the heavier: executions, rows, their products with times."""

    weight: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    t: float = 0.0
    nt: float = 0.0

    def with_one(self, rows: int, duration_ns: float) -> "_Sums":
        """These, and one more."""
        return _Sums(
            self.weight * _MEMORY + 1,
            self.n * _MEMORY + rows,
            self.nn * _MEMORY + rows * rows,
            self.t * _MEMORY + duration_ns,
            self.nt * _MEMORY + rows * duration_ns,
        )

    def only_rows(self) -> int:
        """The size that was seen, if it was one only, else 0."""
        mean_n = self.n / self.weight if self.weight else 0.0
        return round(mean_n) if mean_n and self._variance() < 1e-6 * mean_n * mean_n else 0

    def line(self) -> tuple[float, float]:
        """See `LatencyModel.line`."""
        if not self.weight:
            return 0.0, 0.0
        mean_n, mean_t = self.n / self.weight, self.t / self.weight
        if self.only_rows():
            # Nothing is known of other sizes, and the careful guess is that rows cost.
            return 0.0, mean_t / mean_n
        slope = (self.nt / self.weight - mean_n * mean_t) / self._variance()
        per_row = min(max(slope, 0.0), mean_t / mean_n)
        return mean_t - per_row * mean_n, per_row

    def _variance(self) -> float:
        mean_n = self.n / self.weight
        return self.nn / self.weight - mean_n * mean_n


class LatencyModel(WaitPredictor):
    """Predicts executions by their rows; in all else the predictor that every scheduler has."""

    __slots__ = ("_ratio", "_seen")

    def __init__(self) -> None:
        super().__init__()
        # One value, replaced as a whole: several instances' threads observe.
        self._seen = _Sums()
        # The 99th percentile of an execution over what the line says.
        self._ratio = 1.0

    def observe(self, duration_ns: int, rows: int = 1) -> None:
        """Learn from one execution."""
        super().observe(duration_ns, rows)
        self._seen = self._seen.with_one(rows, duration_ns)
        self._learn_spread(duration_ns / max(self.typical_ns(rows), 1.0))

    def _learn_spread(self, ratio: float) -> None:
        # A step up for each above, a hundredth of it down for each below: it rests where one in a
        # hundred is above (Robbins and Monro, 1951).
        above = ratio > self._ratio
        step = _STEP * self._ratio * (_QUANTILE if above else _QUANTILE - 1)
        self._ratio = min(max(self._ratio + step, 1.0), _MOST_RATIO)

    @property
    def knows(self) -> bool:
        """Whether enough was seen to go by it."""
        return self.observations >= ENOUGH_EXECUTIONS

    @property
    def only_rows(self) -> int:
        """The size of batch that was seen, if it was one only: what is said of others is a guess.
        0 if there were several, or none.
        """
        return self._seen.only_rows()

    def typical_ns(self, rows: int) -> float:
        """How long so many rows take on average."""
        fixed, per_row = self.line()
        return fixed + per_row * rows

    def slow_ns(self, rows: int) -> float:
        """What so many rows take at most in ninety-nine of a hundred executions."""
        return self.typical_ns(rows) * self._ratio

    def line(self) -> tuple[float, float]:
        """Nanoseconds of any execution, and of each row in it; neither is below 0."""
        return self._seen.line()
