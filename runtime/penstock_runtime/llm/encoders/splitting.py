"""How the texts of a batch are put into calls of the model, so that little is computed on padding.

A call costs something of its own, and each of its rows as many tokens as its longest. Texts that
are sorted by length are cut where that sum is least. Pure: knows lengths and nothing of texts.
"""

from collections.abc import Sequence

# How many rows back a cut is looked for: bounds the work for large batches.
_REACH = 256


def split(lengths: Sequence[int], call_tokens: int, max_tokens: int) -> list[list[int]]:
    """The indices of each call, shortest texts first.

    `call_tokens` is what a call costs beside its tokens, as a number of tokens; no call has more
    than `max_tokens`, padding included, but for a single text that is longer.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    starts = _starts([lengths[i] for i in order], call_tokens, max_tokens)
    calls: list[list[int]] = []
    end = len(order)
    while end:
        calls.append(order[starts[end] : end])
        end = starts[end]
    return calls[::-1]


def padded_tokens(lengths: Sequence[int], calls: Sequence[Sequence[int]]) -> int:
    """Tokens that these calls compute, padding included."""
    return sum(len(call) * max(lengths[i] for i in call) for call in calls)


def _starts(ascending: Sequence[int], call_tokens: int, max_tokens: int) -> list[int]:
    """For each number of rows, where the last call of the cheapest cuts begins."""
    best, starts = [0], [0]
    for end in range(1, len(ascending) + 1):
        longest = ascending[end - 1]
        cheapest, start = best[end - 1] + longest, end - 1
        for begin in range(end - 2, max(-1, end - _REACH - 1), -1):
            tokens = (end - begin) * longest
            if tokens > max_tokens:
                break
            if best[begin] + tokens < cheapest:
                cheapest, start = best[begin] + tokens, begin
        best.append(cheapest + call_tokens)
        starts.append(start)
    return starts
