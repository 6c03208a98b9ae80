"""The search for the highest rate that still meets a condition: doubling, then halving the gap.
Pure: it is asked for the next rate and told what came of it.
"""

from dataclasses import dataclass
from math import floor, log10


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried."""

    rate: float
    met: bool


class RateSearch:
    """Finds a rate that meets the condition where `precision` more does not.

    It supposes that a rate below one that is met is met too. At most `most_trials` are asked for.
    """

    def __init__(self, guess: float, precision: float = 0.05, most_trials: int = 16) -> None:
        self._guess = max(guess, 1.0)
        self._precision = precision
        self._most_trials = most_trials
        self.trials: list[Trial] = []
        self._low = 0.0
        self._high = float("inf")

    @property
    def best(self) -> float | None:
        """The highest rate that met the condition so far."""
        return self._low or None

    def next_rate(self) -> float | None:
        """The rate to try now, of three digits; None at the end."""
        if len(self.trials) >= self._most_trials or self._high <= 1:
            return None
        if not self.trials:
            return round_rate(self._guess)
        if self._high == float("inf"):
            return round_rate(self._low * 2)
        if not self._low:
            return round_rate(max(self._high / 2, 1.0))
        middle = round_rate((self._low + self._high) / 2)
        close = self._high <= self._low * (1 + self._precision)
        return None if close or not self._low < middle < self._high else middle

    def tell(self, rate: float, met: bool, answered: float | None = None) -> None:
        """What came of a trial; `answered` is the rate at which calls were really answered.

        A server that could not answer more than that will not meet the condition above it.
        """
        self.trials.append(Trial(rate, met))
        if met:
            self._low = max(self._low, rate)
        else:
            ceiling = rate if not answered or self._low else min(rate, answered * 2)
            self._high = min(self._high, max(ceiling, 1.0))


def round_rate(rate: float) -> float:
    """The rate with three digits; below 1000 a whole number, where that is above 0."""
    if rate < 1:
        return rate
    step = 10.0 ** max(floor(log10(rate)) - 2, 0)
    return round(rate / step) * step
