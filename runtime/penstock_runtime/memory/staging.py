"""A batch on its way to a device and back: every request's bytes go into one slab, with whatever
tells of them behind, which goes down in one copy; a kernel makes the batch of it where anything is
cast or padded; and rows come back as they went.

What the device is, a `Deck` knows; here are only bytes, offsets and kernels. Not thread-safe: an
instance has its own.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from penstock_kernels.declare import Kernel
from penstock_kernels.gather import CASTS, GATHER_PAD, SCATTER_ROWS
from penstock_kernels.ragged import gather_flat
from penstock_runtime.datatype import AnyArray, DataType

# Of what begins in the slab: vector loads want 16, and a copy engine does not mind.
ALIGNMENT = 64
# Bytes of a part.
_SMALL = 8 << 10
_NONE: AnyArray = np.empty(0, np.int32)


class Deck(Protocol):
    """The slab's two sides, and what a kernel needs."""

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Around whatever is asked of it: its device is the current one."""

    def host(self, size: int) -> AnyArray:
        """The slab's first bytes on the host, to be written; nothing reads them any more."""

    def down(self, size: int) -> Any:
        """The same bytes on the device, by one copy, as an array of bytes."""

    def up(self, slab: Any) -> AnyArray:
        """An array of bytes of the device on the host, by one copy, there when this returns."""

    def view(self, slab: Any, offset: int, shape: tuple[int, ...], datatype: DataType) -> Any:
        """A part of the slab as an array."""

    def flat(self, array: Any) -> Any:
        """An array of the device as [rows, width], in order."""

    def empty(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        """An array on the device."""

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Enqueue a kernel after everything before it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One input: its datatype as it comes and as the model takes it, and how its parts are joined:
    row after row, padded with `pad` along `axis` (None: all have one shape), or `flat`, whatever
    shapes they have, element after element.
    """

    name: str
    datatype: DataType
    wanted: DataType
    pad: float | None = None
    axis: int = 1
    flat: bool = False

    @property
    def plain(self) -> bool:
        """Whether the bytes are the batch as they are."""
        return self.datatype is self.wanted and self.pad is None

    @property
    def scatters(self) -> bool:
        """Whether there is a kernel that takes its rows back, as `wanted` on the device."""
        return DataType.BF16 not in (self.datatype, self.wanted) and self.wanted in _NAMES

    @property
    def castable(self) -> bool:
        """Whether there is a kernel for it."""
        # BF16 that arrives as such is an integer to NumPy, which makes the tables.
        known = self.datatype is not DataType.BF16
        return known and (_NAMES.get(self.datatype), _NAMES.get(self.wanted)) in CASTS


class _Laid(NamedTuple):
    """Where one input begins in the slab, and the shape of the batch; and of one that is not plain
    where each of its runs of elements begins, how many each has, and where the slab says so.
    """

    lane: Lane
    at: int
    shape: tuple[int, ...]
    starts: AnyArray
    counts: AnyArray
    tables: int

    @property
    def end(self) -> int:
        """The first byte behind all of it."""
        return self.tables + (0 if self.lane.plain else _tables(len(self.starts)))


class Staging:
    """Merges the inputs of one instance on its device."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def merge(
        self, parts: Sequence[tuple[Lane, Sequence[AnyArray]]], length: int
    ) -> dict[str, Any]:
        """The inputs by name, each of its requests' arrays; `length` is what is padded to."""
        with self._deck.entered():
            return self._merge(parts, length)

    def _merge(
        self, parts: Sequence[tuple[Lane, Sequence[AnyArray]]], length: int
    ) -> dict[str, Any]:
        laid, at = [], 0
        for lane, arrays in parts:
            one = _lay(lane, arrays, length, at)
            laid.append(one)
            at = one.end
        host = self._deck.host(at)
        for one, (_, arrays) in zip(laid, parts, strict=True):
            _fill(host, one, arrays)
        slab = self._deck.down(at)
        return {one.lane.name: self._batch(slab, one) for one in laid}

    def scatter(self, batch: Any, counts: Sequence[int], datatype: DataType) -> list[AnyArray]:
        """Runs of equal length on the device -> the first so many elements of each on the host,
        cast.
        """
        with self._deck.entered():
            return self._scatter(batch, np.asarray(counts, np.int32), datatype)

    def _scatter(self, batch: Any, own: AnyArray, datatype: DataType) -> list[AnyArray]:
        size = datatype.size
        starts = _behind(own.astype(np.int64) * size)
        total = int(starts[-1]) + int(own[-1]) * size if len(own) else 0
        tables = _up(len(own) * 8)
        host = self._deck.host(tables + len(own) * 4)
        host[: len(own) * 8] = starts.view(np.uint8)
        host[tables:] = own.view(np.uint8)
        down = self._deck.down(tables + len(own) * 4)
        slab = self._deck.empty((total,), DataType.UINT8)
        if total:
            self._deck.run(
                SCATTER_ROWS,
                batch=self._deck.flat(batch).reshape(len(own), -1),
                start=self._deck.view(down, 0, (len(own),), DataType.INT64),
                count=self._deck.view(down, tables, (len(own),), DataType.INT32),
                dtype=_NAMES[datatype],
                slab=slab,
            )
        raw = self._deck.up(slab)
        return [
            raw[at : at + count * size].view(datatype.numpy)
            for at, count in zip(starts.tolist(), own.tolist(), strict=True)
        ]

    def _batch(self, slab: Any, one: _Laid) -> Any:
        lane, runs = one.lane, len(one.starts)
        if lane.plain:
            return self._deck.view(slab, one.at, one.shape, lane.datatype)
        width = prod(one.shape if lane.flat else one.shape[lane.axis :])
        out = self._deck.empty((runs, width), lane.wanted)
        self._deck.run(
            GATHER_PAD,
            slab=slab,
            start=self._deck.view(slab, one.tables, (runs,), DataType.INT64),
            count=self._deck.view(slab, one.tables + _up(runs * 8), (runs,), DataType.INT32),
            dtype=_NAMES[lane.datatype],
            out=out,
            mask=None,
            pad=lane.pad or 0.0,
        )
        return out.reshape(one.shape)


# The kernels' names of the datatypes that they cast.
_NAMES = {
    DataType.FP32: "float32",
    DataType.FP16: "float16",
    DataType.BF16: "bfloat16",
    DataType.INT64: "int64",
    DataType.INT32: "int32",
    DataType.UINT8: "uint8",
}


def _lay(lane: Lane, arrays: Sequence[AnyArray], length: int, at: int) -> _Laid:
    """One input from byte `at` on: its parts one behind the other, its tables behind them."""
    end = _up(at + sum(array.nbytes for array in arrays))
    shape = _shape(lane, arrays, length)
    if lane.plain:
        return _Laid(lane, at, shape, _NONE, _NONE, end)
    counts = _counts(lane, arrays)
    starts = at + _behind(counts.astype(np.int64) * lane.datatype.size)
    return _Laid(lane, at, shape, starts, counts, end)


def _shape(lane: Lane, arrays: Sequence[AnyArray], length: int) -> tuple[int, ...]:
    """Of the batch, padded to `length`."""
    if lane.flat:
        return (sum(array.size for array in arrays),)
    dims = list(arrays[0].shape)
    dims[0] = sum(array.shape[0] for array in arrays)
    if lane.pad is not None:
        dims[lane.axis] = length
    return tuple(dims)


def _counts(lane: Lane, arrays: Sequence[AnyArray]) -> AnyArray:
    """The elements of each run: of one that is padded what lies along the axis and behind it."""
    if lane.flat:
        return np.array([sum(array.size for array in arrays)], np.int32)
    widths = np.array([prod(array.shape[lane.axis :]) for array in arrays], np.int32)
    return np.repeat(widths, [prod(array.shape[: lane.axis]) for array in arrays])


def _fill(host: AnyArray, one: _Laid, arrays: Sequence[AnyArray]) -> None:
    """Copy the parts into the slab, and behind them where each run is."""
    at = one.at
    # Small ones are joined and copied in less time than a look at each takes.
    small = one.tables - one.at <= _SMALL * len(arrays)
    for array in [gather_flat(arrays)] if small else arrays:
        source = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        end = at + source.nbytes
        host[at:end] = source.reshape(-1).view(np.uint8)
        at = end
    if not one.lane.plain:
        runs, tables = len(one.starts), one.tables
        host[tables : tables + runs * 8] = one.starts.view(np.uint8)
        second = tables + _up(runs * 8)
        host[second : second + runs * 4] = one.counts.view(np.uint8)


def _tables(rows: int) -> int:
    return _up(rows * 8) + _up(rows * 4)


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _behind(sizes: AnyArray) -> AnyArray:
    """Where parts of these sizes begin, one behind the other."""
    return np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.int64)[: len(sizes)]
