"""Steps in which every row decodes one token, as CUDA graphs: captured once for each size of batch,
over buffers that stay where they are, and replayed for every step of that size or a little less.

What is behind the last row keeps nothing (its slot is negative) and sees nothing (its context is
0). What a step computes it is given; how graphs are captured too, so that it is tested without a
GPU. A step that cannot be captured is computed as any other, from then on.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from penstock_runtime.backends.torch_capture import Capturing
from penstock_runtime.llm.packing import Feed, PackedBatch, Span, pack
from penstock_runtime.llm.step import StepPlan

_log = logging.getLogger("penstock.llm")
_CPU = torch.device("cpu")
Compute = Callable[[PackedBatch], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Captured:
    """What a graph writes, and how to run it again."""

    output: torch.Tensor
    replay: Callable[[], None]


class Capturer(Protocol):
    """Makes a graph of what a function does."""

    def capture(self, compute: Callable[[], torch.Tensor]) -> Captured:
        """The function is called several times, at the end with everything recorded."""


class CudaCapturer:
    """CUDA's own graphs, which share one pool of memory: they never run at once."""

    def __init__(self, device: torch.device) -> None:
        self._capturing = Capturing(device)

    def capture(self, compute: Callable[[], torch.Tensor]) -> Captured:
        """Warm up beside the current stream, as torch wants it, and record."""
        replay, output = self._capturing.capture(compute, warm_calls=1)
        return Captured(output, replay)


class DecodeGraphs:
    """The graphs of one model's decode steps. `compute` gives the logits of a batch in which each
    row has one token; `pages` is how wide its tables are. Used by the engine's thread.
    """

    def __init__(
        self,
        compute: Compute,
        capturer: Capturer,
        device: torch.device,
        *,
        most_rows: int,
        pages: int,
        block_size: int,
    ) -> None:
        self._compute = compute
        self._capturer = capturer
        self._block_size = block_size
        self._pages = pages
        self.sizes = batch_sizes(most_rows)
        # A graph goes on reading the batch that it was captured with.
        self._graphs: dict[int, tuple[Captured, PackedBatch]] = {}
        self._buffers = _Buffers(self.sizes[-1], pages, device)
        # Of all sizes, since no two are wanted at once.
        self._logits: torch.Tensor | None = None

    @property
    def broken(self) -> bool:
        """Whether nothing can be captured."""
        return not self.sizes

    def run(self, plan: StepPlan, feed: Feed | None = None) -> torch.Tensor | None:
        """The logits of the plan's rows, which stand until the next call; None where the step is
        not of one token a row, or too large.
        """
        rows = len(plan.rows)
        if self.broken or not 0 < rows <= self.sizes[-1] or not _decodes(plan):
            return None
        batch = pack(plan, self._block_size, _CPU)
        if batch.tables.shape[1] > self._pages:
            return None
        size = self.sizes[bisect_left(self.sizes, rows)]
        self._buffers.fill(batch, size, feed, plan)
        graph = self._graph(size)
        if graph is None:
            return None
        graph.replay()
        return graph.output[:rows]

    def _graph(self, size: int) -> Captured | None:
        known = self._graphs.get(size)
        if known is not None:
            return known[0]
        batch = self._buffers.batch(size)
        try:
            graph = self._capturer.capture(lambda: self._kept(self._compute(batch)))
        except Exception as error:
            # What was captured goes on; where nothing was, nothing will be.
            self.sizes = tuple(
                each
                for each in self.sizes
                if each in self._graphs or (self._graphs and each < size)
            )
            most = f"of more than {self.sizes[-1]} rows " if self.sizes else ""
            _log.warning("decode steps %srun without CUDA graphs: %s", most, error)
            return None
        self._graphs[size] = graph, batch
        return graph

    def _kept(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits where those of all sizes lie; that is made at the first call, a warm one."""
        if self._logits is None:
            self._logits = logits.new_empty(self.sizes[-1], logits.shape[1])
        return self._logits[: len(logits)].copy_(logits)

    def __repr__(self) -> str:
        return f"<DecodeGraphs of {sorted(self._graphs)} rows, out of {list(self.sizes)}>"


class _Buffers:
    """Where the graphs find a step: on the device, with a copy on the host that is written first,
    so that a step takes two copies. The host has two of those, in turns: the host waits for a
    step's tokens before it writes the step after the next.
    """

    def __init__(self, rows: int, pages: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._hosts = [
            (
                torch.zeros(5, rows, dtype=torch.int64, pin_memory=pinned),
                torch.zeros(rows * (1 + pages), dtype=torch.int32, pin_memory=pinned),
            )
            for _ in range(2)
        ]
        longs, ints = self._hosts[0]
        self._device_longs = longs.to(device, copy=True)
        self._device_ints = ints.to(device, copy=True)
        # A graph reads contexts and tables as they are for any other step: dense.
        self._tables = torch.zeros(rows, pages, dtype=torch.int32, device=device)
        self._contexts = torch.zeros(rows, dtype=torch.int32, device=device)
        self._places = torch.arange(rows, device=device)

    def fill(self, batch: PackedBatch, size: int, feed: Feed | None, plan: StepPlan) -> None:
        """Have this batch in the first rows, with the tokens that are only foreseen in it, and
        nothing in the rows behind it.
        """
        self._hosts.reverse()
        self._fill_longs(batch, size, feed, plan)
        self._fill_ints(batch, size)

    def _fill_longs(self, batch: PackedBatch, size: int, feed: Feed | None, plan: StepPlan) -> None:
        longs, there, rows = self._hosts[0][0], self._device_longs, batch.tables.shape[0]
        longs[:2, :size] = 0
        longs[2, :size] = -1
        longs[0, :rows] = batch.input_ids[0]
        longs[1, :rows] = batch.positions[0]
        longs[2, :rows] = batch.slots
        unknown = 0
        if feed is not None:
            places, sources = feed.places(plan)
            unknown = len(places)
            longs[3, :unknown] = torch.from_numpy(places)
            longs[4, :unknown] = torch.from_numpy(sources)
        there.copy_(longs, non_blocking=True)
        if feed is not None:
            feed.fill(there[0], there[3, :unknown], there[4, :unknown])

    def _fill_ints(self, batch: PackedBatch, size: int) -> None:
        """Contexts and tables; of these no more travels than the longest row has."""
        rows, pages = batch.tables.shape
        count = size * (1 + pages)
        ints = self._hosts[0][1][:count].view(size, 1 + pages)
        ints[rows:] = 0
        ints[:rows, 0] = batch.contexts
        ints[:rows, 1:] = batch.tables
        there = self._device_ints[:count]
        there.copy_(self._hosts[0][1][:count], non_blocking=True)
        there = there.view(size, 1 + pages)
        self._contexts[:size] = there[:, 0]
        # What is left of longer rows lies behind every context.
        self._tables[:size, :pages] = there[:, 1:]

    def batch(self, size: int) -> PackedBatch:
        """The first rows as a batch; its spans say nothing but that each row decodes."""
        return PackedBatch(
            self._device_longs[0:1, :size],
            self._device_longs[1:2, :size],
            self._device_longs[2, :size],
            self._tables[:size],
            self._contexts[:size],
            torch.arange(size + 1, dtype=torch.int32, device=self._tables.device),
            self._places[:size],
            tuple(Span(row, row, 1, 1) for row in range(size)),
            size,
        )


def batch_sizes(most: int) -> tuple[int, ...]:
    """The sizes that are captured: close together where a padded row costs most."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 257, 16), *range(320, max(most, 320) + 64, 64)]
    kept = [size for size in sizes if size < most]
    return (*kept, most)


def _decodes(plan: StepPlan) -> bool:
    return all(row.decodes and row.logits == 1 and not row.drafts for row in plan.rows)
