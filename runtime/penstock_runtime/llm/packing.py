"""From a plan to the numbers that a forward pass over packed rows needs: one row of token ids with
their positions, the slots that their keys and values go to, and each row's pages. Knows nothing of
the model.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.step import Row, StepPlan

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Span:
    """Where one row lies: `count` packed tokens from `start`, the last of `context` in all."""

    row: int
    start: int
    count: int
    context: int

    @property
    def end(self) -> int:
        """The first packed token after it."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One step on the model's device; the first `n_decodes` rows have one token each.

    input_ids, positions: int64 [1, tokens]; slots: int64 [tokens]; tables: int32 [rows, pages];
    contexts: int32 [rows], tokens of a row after this step; starts: int32 [rows + 1]; wanted: int64
    [logits], packed tokens whose logits are wanted. `spans` are all rows, for who cannot look into
    a device.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    tables: torch.Tensor
    contexts: torch.Tensor
    starts: torch.Tensor
    wanted: torch.Tensor
    spans: tuple[Span, ...]
    n_decodes: int

    @property
    def n_tokens(self) -> int:
        """How many tokens are packed."""
        return self.slots.shape[0]


def pack(plan: StepPlan, block_size: int, device: torch.device) -> PackedBatch:
    """The rows of a plan, one after the other."""
    rows = plan.rows
    counts = np.fromiter((row.count for row in rows), np.int64, len(rows))
    firsts = np.fromiter((row.start for row in rows), np.int64, len(rows))
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    contexts = firsts + counts
    tables = block_tables(rows, contexts, block_size)
    row_of = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(starts[-1]) + (firsts - starts[:-1])[row_of]
    slots = tables[row_of, positions // block_size].astype(np.int64) * block_size
    slots += positions % block_size
    wanted = _wanted(rows, starts)
    longs = _moved((_tokens(rows, int(starts[-1])), positions, slots, wanted), device)
    ints = _moved((tables.reshape(-1), contexts.astype(np.int32), starts.astype(np.int32)), device)
    return PackedBatch(
        longs[0].unsqueeze(0),
        longs[1].unsqueeze(0),
        longs[2],
        ints[0].view(tables.shape),
        ints[1],
        ints[2],
        longs[3],
        _spans(starts.tolist(), contexts.tolist()),
        plan.n_decodes,
    )


def block_tables(rows: Iterable[Row], contexts: Longs, block_size: int) -> Ints:
    """int32 [rows, pages]: the blocks that hold each row's tokens; 0 behind its last."""
    pages = -(-contexts // block_size)
    tables = np.zeros((len(pages), int(pages.max(initial=1))), np.int32)
    for table, row, used in zip(tables, rows, pages.tolist(), strict=True):
        # An array of the C type is filled from a list several times faster than one of NumPy.
        table[:used] = array("i", row.sequence.blocks[:used])
    return tables


def _tokens(rows: tuple[Row, ...], count: int) -> Longs:
    tokens = array("q")
    for row in rows:
        if row.count == 1 and not row.drafts:
            tokens.append(row.sequence.tokens[row.start])
        else:
            tokens.extend(row.tokens)
    return np.frombuffer(tokens, np.int64, count)


def _wanted(rows: tuple[Row, ...], starts: Longs) -> Longs:
    """The packed places of the last `logits` tokens of each row."""
    logits = np.fromiter((row.logits for row in rows), np.int64, len(rows))
    before = np.cumsum(logits) - logits
    places: Longs = np.arange(int(logits.sum()), dtype=np.int64)
    shifts: Longs = np.repeat(starts[1:] - logits - before, logits)
    places += shifts
    return places


def _spans(starts: list[int], contexts: list[int]) -> tuple[Span, ...]:
    return tuple(
        Span(row, start, end - start, context)
        for row, (start, end, context) in enumerate(
            zip(starts[:-1], starts[1:], contexts, strict=True)
        )
    )


def _moved(
    parts: tuple[npt.NDArray[np.generic], ...], device: torch.device
) -> tuple[torch.Tensor, ...]:
    """The arrays (one-dimensional, of one dtype) on a device; they travel as one."""
    if device.type == "cpu":
        return tuple(torch.from_numpy(part) for part in parts)
    whole = torch.from_numpy(np.concatenate(parts)).to(device)
    return torch.split(whole, [part.size for part in parts])
