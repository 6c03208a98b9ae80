"""A batch out of a slab of bytes that holds requests' rows, cast and padded on the way; and back.

Row r begins at byte `start[r]` (a multiple of the element's size) and has `count[r]` elements.
"""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    blocks,
    c_name,
    c_type,
    float32,
    grid,
    instance,
    int64,
)

_THREADS = 256
_PER_THREAD = 8
# y of a grid: more rows take more launches.
_ROWS = 65535

CASTS = (
    ("float32", "float16"),
    ("float32", "bfloat16"),
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("int64", "int32"),
    ("int64", "int64"),
    ("int32", "int32"),
    ("uint8", "float16"),
    ("uint8", "uint8"),
)
_BACK = (
    ("float16", "float32"),
    ("bfloat16", "float32"),
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("int32", "int64"),
    ("int64", "int64"),
    ("int32", "int32"),
    ("uint8", "uint8"),
)


def _gather_plan(
    slab: Any, start: Any, count: Any, dtype: Any, out: Any, mask: Any, pad: float
) -> list[Launch]:
    """slab: uint8 [bytes]; start: int64 [rows]; count: int32 [rows]; dtype: of the slab's elements;
    out: [rows, width]; mask: uint8 [rows, width] or None.
    """
    rows, width = out.shape
    name = instance("gather_pad", c_type(np.dtype(dtype)), c_name(out))
    return [
        Launch(
            name,
            grid(blocks(width, _THREADS * _PER_THREAD), len(part)),
            (_THREADS, 1, 1),
            (
                slab,
                _cut(start, part),
                _cut(count, part),
                _cut(out, part),
                None if mask is None else _cut(mask, part),
                int64(width),
                float32(pad),
            ),
        )
        for part in _parts(rows, width)
    ]


def _gather_reference(
    slab: Any, start: Any, count: Any, dtype: Any, out: Any, mask: Any, pad: float
) -> None:
    width = out.shape[1]
    size = np.dtype(dtype).itemsize
    for row, (begin, elements) in enumerate(zip(start.tolist(), count.tolist(), strict=True)):
        kept = min(elements, width)
        with np.errstate(over="ignore"):
            out[row, :kept] = slab[begin : begin + kept * size].view(dtype).astype(out.dtype)
        out[row, kept:] = np.asarray(pad, out.dtype)
        if mask is not None:
            mask[row, :kept], mask[row, kept:] = 1, 0


def _gather_traffic(
    slab: Any, start: Any, count: Any, dtype: Any, out: Any, mask: Any, pad: float
) -> Traffic:
    read = int(np.minimum(count, out.shape[1]).sum()) * np.dtype(dtype).itemsize
    return Traffic(
        read + start.nbytes + count.nbytes + out.nbytes + (mask.nbytes if mask is not None else 0)
    )


def _scatter_plan(batch: Any, start: Any, count: Any, dtype: Any, slab: Any) -> list[Launch]:
    """batch: [rows, width]; start: int64 [rows]; count: int32 [rows]; dtype: of the slab's
    elements; slab: uint8 [bytes].
    """
    rows, width = batch.shape
    wide = np.dtype(dtype)
    name = instance("scatter_rows", c_name(batch), c_type(wide))
    per_thread = 16 // max(wide.itemsize, batch.dtype.itemsize)
    return [
        Launch(
            name,
            grid(blocks(width, _THREADS * per_thread), len(part)),
            (_THREADS, 1, 1),
            (
                _cut(batch, part),
                _cut(start, part),
                _cut(count, part),
                slab,
                int64(width),
            ),
        )
        for part in _parts(rows, width)
    ]


def _scatter_reference(batch: Any, start: Any, count: Any, dtype: Any, slab: Any) -> None:
    size = np.dtype(dtype).itemsize
    for row, begin, elements in zip(batch, start.tolist(), count.tolist(), strict=True):
        kept = min(elements, batch.shape[1])
        slab[begin : begin + kept * size] = row[:kept].astype(dtype).view(np.uint8)


def _scatter_traffic(batch: Any, start: Any, count: Any, dtype: Any, slab: Any) -> Traffic:
    elements = int(np.minimum(count, batch.shape[1]).sum())
    each = batch.dtype.itemsize + np.dtype(dtype).itemsize
    return Traffic(elements * each + start.nbytes + count.nbytes)


def _cut(array: Any, part: range) -> Any:
    """A part's rows; the array itself if that is all, since a view on a device costs."""
    return array if len(part) == array.shape[0] else array[part.start : part.stop]


def _parts(rows: int, width: int) -> list[range]:
    """The rows of each launch; none when there is nothing."""
    if width == 0:
        return []
    return [range(at, min(at + _ROWS, rows)) for at in range(0, rows, _ROWS)]


GATHER_PAD = Kernel(
    name="gather_pad",
    source="gather.cu",
    instances=tuple(instance("gather_pad", c_type(a), c_type(b)) for a, b in CASTS),
    outputs=("out", "mask"),
    plan=_gather_plan,
    reference=_gather_reference,
    traffic=_gather_traffic,
)
SCATTER_ROWS = Kernel(
    name="scatter_rows",
    source="gather.cu",
    instances=tuple(instance("scatter_rows", c_type(a), c_type(b)) for a, b in _BACK),
    outputs=("slab",),
    plan=_scatter_plan,
    reference=_scatter_reference,
    traffic=_scatter_traffic,
)
