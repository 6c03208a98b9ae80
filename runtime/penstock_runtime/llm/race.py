"""A token for each row: whichever is the highest after noise of its own was added to its logit.

The highest after Gumbel noise is a draw from the softmax. Noise is a function of seed, position and
token, so the same text comes of the same seed in any batch, with drafts or without. What lies
behind a row's head runs as one (the highest of many Gumbels is a Gumbel, whichever it is of), and
only where it wins is a token of it drawn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.cuts import Kept, row_sums
from penstock_runtime.llm.philox import Stream, gumbel, uniforms

Array = npt.NDArray[Any]


def race(kept: Kept, seeds: Sequence[int], positions: Sequence[int]) -> list[int]:
    """Draw a token of each row, for the position that it will have in the text."""
    logits = kept.head_logits
    scores = logits - logits[:, :1] + gumbel(kept.head_tokens, seeds, positions)
    scores[logits < kept.least[:, None]] = -np.inf
    best = scores.argmax(-1)[:, None]
    tokens = np.take_along_axis(kept.head_tokens, best, 1)[:, 0]
    rows = kept.open_rows
    if len(rows):
        _race_tails(kept, rows, np.take_along_axis(scores, best, 1)[:, 0], tokens, seeds, positions)
    drawn: list[int] = tokens.tolist()
    return drawn


def invert(weights: torch.Tensor, uniform: float) -> int:
    """The token at which the sum of the weights [vocabulary] passes this share of it."""
    mass = weights.cumsum(-1, dtype=torch.float64)
    wanted = (mass[-1] * uniform).reshape(1)
    # Right of all that is equal, so that nothing without weight is drawn.
    return min(int(torch.searchsorted(mass, wanted, right=True)), len(weights) - 1)


def _race_tails(
    kept: Kept,
    rows: Array,
    best: Array,
    tokens: Array,
    seeds: Sequence[int],
    positions: Sequence[int],
) -> None:
    """Let what lies behind the head of these rows run too; `tokens` are the winners."""
    weights = kept.weights(rows)
    weights.scatter_(1, torch.from_numpy(kept.head_tokens[rows]).to(weights.device), 0)
    first, second = uniforms([seeds[r] for r in rows], [positions[r] for r in rows], Stream.TAIL)
    with np.errstate(divide="ignore"):
        scores = np.log(row_sums(weights)) - np.log(-np.log(first))
    for place in np.flatnonzero(scores > best[rows]):
        tokens[rows[place]] = invert(weights[place], float(second[place]))
