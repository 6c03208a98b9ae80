"""What steps take: how fast an engine computes, and each text's share of its time. Pure."""

from penstock_runtime.llm.generation import Choice
from penstock_runtime.llm.step import StepPlan

# How much a full step changes what is known of the rate; one that is less than half full says
# nothing of what a queue is worked off with.
_RATE_WEIGHT = 0.2
_RATE_SHARE = 0.5


class Meter:
    """Of steps of at most so many tokens. `rate`: tokens a second, 0 while nothing is known."""

    def __init__(self, most_tokens: int) -> None:
        self._most = most_tokens
        self._ended_ns = 0
        self.rate = 0.0

    def take(self, plan: StepPlan, began_ns: int, ended_ns: int) -> int:
        """Share out what a step took, in nanoseconds: one that began while another was computed
        waited for that.
        """
        spent = ended_ns - max(began_ns, self._ended_ns)
        self._ended_ns = ended_ns
        self._note(plan.n_tokens, spent)
        share = spent / plan.n_tokens
        for row in plan.rows:
            choice: Choice = row.sequence.owner  # type: ignore[assignment] # whose it is
            choice.compute_ns += int(share * row.count)
        return spent

    def _note(self, tokens: int, spent_ns: int) -> None:
        """Full steps tell what a queue is worked off with."""
        share = tokens / self._most
        if share < _RATE_SHARE:
            return
        rate, weight = tokens * 1e9 / max(spent_ns, 1), min(share, 1.0) * _RATE_WEIGHT
        self.rate = rate if not self.rate else self.rate + weight * (rate - self.rate)

    def __repr__(self) -> str:
        return f"<Meter {self.rate:.0f} tokens a second>"
