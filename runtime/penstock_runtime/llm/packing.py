"""From a plan to the numbers that a forward pass over packed rows needs: one row of token ids with
their positions, the slots that their keys and values go to, and each row's pages. Knows nothing of
the model.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan
from penstock_runtime.llm.transfers import down

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


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens that a step has chosen and nobody on the host knows yet: int64 [rows] on the model's
    device, and whose each is.
    """

    tokens: torch.Tensor
    rows: Mapping[Sequence, int]

    def places(self, plan: StepPlan) -> tuple[Longs, Longs]:
        """Which packed tokens of a plan are such, and which of these each is: int64 [unknown]."""
        ends = accumulate(row.count for row in plan.rows)
        found = [
            (end - 1, self.rows[row.sequence])
            for row, end in zip(plan.rows, ends, strict=True)
            if row.sequence.foreseen and row.start + row.count == len(row.sequence.tokens)
        ]
        both = np.array(found, np.int64).reshape(-1, 2)
        return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])

    def fill(self, ids: torch.Tensor, places: torch.Tensor, sources: torch.Tensor) -> None:
        """Have them among the ids of a step (int64 [tokens]), on the device."""
        ids.index_copy_(0, places, self.tokens.index_select(0, sources))


def pack(
    plan: StepPlan, block_size: int, device: torch.device, feed: Feed | None = None
) -> PackedBatch:
    """The rows of a plan, one after the other; `feed` has the tokens that are foreseen in them."""
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
    unknown = feed.places(plan) if feed is not None else ()
    longs = _moved((_tokens(rows, int(starts[-1])), positions, slots, wanted, *unknown), device)
    if feed is not None:
        feed.fill(longs[0], longs[4], longs[5])
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
    whole = down(np.concatenate(parts), device)
    return torch.split(whole, [part.size for part in parts])
