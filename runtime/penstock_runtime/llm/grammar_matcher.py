"""How far one answer has come in its grammar, and which tokens may follow."""

from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask


class Matcher:
    """The `Grammar` of a sequence, by llguidance. Ends of the sequence count as tokens, so that
    what was accepted can be taken back one by one.

    A grammar that becomes too complex on the way lets nothing but the end follow; `failure` then
    says why.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._words = (vocab_size + 31) // 32
        self._ends = frozenset(eos_token_ids)
        self._count = 0
        # Ends that came where nothing else may: the library does not count those.
        self._ended = 0

    def fill(self, mask: Any, row: int) -> None:
        """Write the tokens that may come next into one row of a mask: an array or a CPU's tensor of
        int32 with a bit for each token.
        """
        array = mask if isinstance(mask, np.ndarray) else mask.numpy()
        if array.shape[1] == self._words:
            fill_next_token_bitmask(self._matcher, array, row)
            return
        # The tokenizer has more tokens than the model, or the mask is of several models.
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.int32)
        width = min(bits.size, array.shape[1])
        array[row, :width] = bits[:width]
        array[row, width:] = 0

    def accept(self, token: int) -> bool:
        """Go on by this token; False, and nothing has changed, where it may not come."""
        if self._ended or self._matcher.is_stopped():
            if token not in self._ends:
                return False
            self._ended += 1
        elif self._matcher.try_consume_tokens([token]) != 1:
            return False
        self._count += 1
        return True

    def rollback(self, count: int) -> None:
        """Take so many tokens back."""
        if not 0 <= count <= self._count:
            raise ValueError(f"{count} tokens cannot be taken back of {self._count}")
        self._count -= count
        ends = min(count, self._ended)
        self._ended -= ends
        if count > ends:
            self._matcher.rollback(count - ends)

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may follow."""
        return self._matcher.is_stopped()

    @property
    def complete(self) -> bool:
        """Whether what has come is all that the grammar asks for, though more may follow."""
        return self._matcher.is_accepting()

    @property
    def failure(self) -> str:
        """Why the grammar cannot be followed any more; nothing while it can."""
        return self._matcher.get_error() if self._matcher.is_error() else ""
