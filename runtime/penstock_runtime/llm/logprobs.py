"""How likely the model found a token, and what it found likelier: of its raw logits, before
penalties, temperature or masks (vLLM's default).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

ALL = -1
"""So many of the likeliest means the whole vocabulary."""

# Rows at a time: a long prompt's distributions would not fit all at once.
_ROWS = 64


class TokenLogprob(NamedTuple):
    """One token's log probability; the likeliest has rank 1."""

    token: int
    logprob: float
    rank: int


class TokenLogprobs(NamedTuple):
    """The chosen token's log probability and rank, and the likeliest ones, from rank 1 on."""

    token: int
    logprob: float
    rank: int
    top: tuple[TokenLogprob, ...]


def token_logprobs(
    logits: torch.Tensor, rows: Sequence[int], tokens: Sequence[int], tops: Sequence[int]
) -> list[TokenLogprobs]:
    """Of each of these rows of the logits [rows, vocabulary]: the token that was chosen, and so
    many of the likeliest.
    """
    found: list[TokenLogprobs] = []
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        found += _part(logits, rows[part], tokens[part], tops[part])
    return found


def _part(
    logits: torch.Tensor, rows: Sequence[int], tokens: Sequence[int], tops: Sequence[int]
) -> list[TokenLogprobs]:
    x = logits[torch.tensor(rows, device=logits.device)].log_softmax(-1)
    chosen = x.gather(1, torch.tensor(tokens, device=x.device)[:, None])
    ranks = ((x > chosen).sum(-1) + 1).tolist()
    likeliest = _likeliest(x, [x.shape[1] if n == ALL else min(n, x.shape[1]) for n in tops])
    return [
        TokenLogprobs(*answer)
        for answer in zip(tokens, chosen[:, 0].tolist(), ranks, likeliest, strict=True)
    ]


def _likeliest(x: torch.Tensor, sizes: Sequence[int]) -> list[tuple[TokenLogprob, ...]]:
    most = max(sizes)
    if most == 0:
        return [()] * len(sizes)
    values, tokens = (column.tolist() for column in x.topk(most))
    ranks = range(1, most + 1)
    return [
        tuple(map(TokenLogprob, tokens[i][:n], values[i][:n], ranks[:n]))
        for i, n in enumerate(sizes)
    ]
