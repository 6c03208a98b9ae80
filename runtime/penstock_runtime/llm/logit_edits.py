"""What is done to the logits of a step before anything is drawn: tokens that may not come, biases,
penalties. Edits are collected row by row and made all at once; rows without any cost nothing.

In vLLM's order: what may not come at all, biases, penalties. It does not know why.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.penalties import Seen, penalise

Array = npt.NDArray[Any]

# Eight logits for each byte of a mask: 0 where the bit is set, else minus infinity.
_BYTES = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little") > 0,
    np.float32(0),
    np.float32(-np.inf),
)


Masker = Callable[[torch.Tensor, Array, Sequence[int]], None]
"""Makes minus infinity of what masks (int32 [masks, words]) forbid in their rows of logits."""


class LogitEdits:
    """The edits of some rows of logits over one vocabulary; `masker` applies masks where the logits
    are, if anyone does.
    """

    __slots__ = (
        "_allowed",
        "_banned",
        "_bias",
        "_mask_rows",
        "_masker",
        "_masks",
        "_seen",
        "_vocab_size",
    )

    def __init__(self, vocab_size: int, masker: Masker | None = None) -> None:
        self._vocab_size = vocab_size
        self._masker = masker
        self._allowed: list[tuple[int, Array]] = []
        self._banned: list[int] = []
        self._bias: dict[int, float] = {}
        self._masks: list[Array] = []
        self._mask_rows: list[int] = []
        self._seen: list[Seen] = []

    def allow(self, row: int, tokens: Array) -> None:
        """Nothing but these may come."""
        self._allowed.append((row, tokens))

    def ban(self, row: int, tokens: Iterable[int]) -> None:
        """None of these may come."""
        start = row * self._vocab_size
        self._banned.extend(start + token for token in tokens)

    def bias(self, row: int, biases: Mapping[int, float]) -> None:
        """Add to the logits of these."""
        start = row * self._vocab_size
        self._bias.update((start + token, value) for token, value in biases.items())

    def mask(self, row: int) -> Array:
        """A mask for this row (int32 [1, words], a bit for each token that may come), to be filled
        in; all are set.
        """
        mask = np.full((1, (self._vocab_size + 31) // 32), -1, np.int32)
        self._masks.append(mask)
        self._mask_rows.append(row)
        return mask

    def penalise(self, seen: Seen) -> None:
        """Take the penalties of what was seen."""
        self._seen.append(seen)

    def apply(self, x: torch.Tensor) -> None:
        """Make all the edits in the logits [rows, vocabulary]."""
        for row, tokens in self._allowed:
            places = torch.from_numpy(tokens).to(x.device)
            logits = x[row, places]
            x[row] = -torch.inf
            x[row, places] = logits
        if self._masks:
            self._apply_masks(x)
        if self._bias:
            places = torch.tensor(list(self._bias), device=x.device)
            x.view(-1)[places] += torch.tensor(
                list(self._bias.values()), dtype=x.dtype, device=x.device
            )
        if self._banned:
            x.view(-1)[torch.tensor(self._banned, device=x.device)] = -torch.inf
        if self._seen:
            penalise(x, self._seen)

    def _apply_masks(self, x: torch.Tensor) -> None:
        words = np.concatenate(self._masks)
        if self._masker is not None:
            self._masker(x, words, self._mask_rows)
            return
        added = _BYTES[words.view(np.uint8)].reshape(len(words), -1)[:, : self._vocab_size]
        rows = torch.tensor(self._mask_rows, device=x.device)
        x.index_add_(0, rows, torch.from_numpy(np.ascontiguousarray(added)).to(x.device))
