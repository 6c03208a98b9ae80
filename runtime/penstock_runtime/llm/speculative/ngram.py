"""Drafts from the text itself: what followed the last time that it read as it does at its end.

Prompt lookup (Saxena, "Prompt lookup decoding", 2023). Every n-gram of the least size is indexed
once, as its text grows; the longest match among the latest few occurrences is continued, and goes
on into the drafts themselves where the text repeats. Pure: it knows no model.
"""

from collections.abc import Iterable

from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.proposer import wanted_drafts

_LOOK_BACK = 8
"""So many earlier occurrences are compared."""

_NONE = -1


class NgramProposer:
    """Proposes up to `tokens` drafts after a match of `least` tokens or more; of several matches,
    the longest up to `most` tokens, else the latest, is followed.
    """

    def __init__(self, tokens: int = 4, *, least: int = 2, most: int = 5) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"n-grams of {least} to {most} tokens, expected 1 <= least <= most")
        self._tokens = tokens
        self._least = least
        self._most = most
        self._indices: dict[Sequence, _Index] = {}

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set the drafts of each sequence."""
        for sequence in sequences:
            count = wanted_drafts(sequence, self._tokens)
            sequence.drafts = self._drafts(sequence, count) if count else []

    def forget(self, sequence: Sequence) -> None:
        """Drop the index of a sequence that has ended."""
        self._indices.pop(sequence, None)

    def _drafts(self, sequence: Sequence, count: int) -> list[int]:
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = _Index(self._least)
        tokens = sequence.tokens
        start = index.find(tokens, self._most)
        if start == _NONE:
            return []
        # From where the match ended, what would be behind the text's end is what was proposed.
        drafts: list[int] = []
        for place in range(start, start + count):
            drafts.append(tokens[place] if place < len(tokens) else drafts[place - len(tokens)])
        return drafts


class _Index:
    """Where each n-gram of one size last ended in a text, and where before that."""

    __slots__ = ("_before", "_last", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._last: dict[tuple[int, ...], int] = {}
        # For each end of an n-gram, the end of the same n-gram before it.
        self._before: list[int] = []

    def find(self, tokens: list[int], most: int) -> int:
        """The place behind the best earlier occurrence of the text's end."""
        size = self._size
        for end in range(len(self._before), len(tokens)):
            key = tuple(tokens[max(end - size, 0) : end])
            self._before.append(self._last.get(key, _NONE))
            self._last[key] = end
        best, longest = _NONE, 0
        end = self._last.get(tuple(tokens[-size:]), _NONE)
        for _ in range(_LOOK_BACK):
            if end == _NONE or longest == most:
                break
            length = _common(tokens, end, most)
            if length > longest and length >= size:
                best, longest = end, length
            end = self._before[end]
        return best


def _common(tokens: list[int], end: int, most: int) -> int:
    """How many tokens before `end` are as those before the text's end."""
    length = 0
    while length < min(most, end) and tokens[end - 1 - length] == tokens[-1 - length]:
        length += 1
    return length
