"""What every proposer of draft tokens offers, and how many drafts a sequence is good for."""

from collections.abc import Iterable
from typing import Protocol

from penstock_runtime.llm.sequence import Phase, Sequence


class Proposer(Protocol):
    """Proposes tokens that sequences may go on with. Used by the engine's thread."""

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set the drafts of each sequence; none where there is nothing to propose."""

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of a sequence that has ended; idempotent."""


def wanted_drafts(sequence: Sequence, most: int) -> int:
    """How many drafts are of use to a sequence: none while its prompt is computed, and one less
    than it may still get, because a token always follows those that stand.
    """
    decodes = sequence.n_computed == len(sequence.tokens) - 1
    if sequence.phase is Phase.FINISHED or not sequence.ready or not decodes:
        return 0
    return max(min(most, sequence.n_left - 1), 0)
