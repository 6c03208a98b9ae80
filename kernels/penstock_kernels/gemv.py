"""A few rows times a weight of int8 or packed int4, which is never written out as floats."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    blocks,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)

_WARPS = 4
# As in the source: outputs of a warp, integers of a lane at a time.
_OUTPUTS, _EACH = 2, 8
_DTYPES = ("float16", "bfloat16")
_ROWS = (1, 2, 4, 8)
MOST_ROWS = _ROWS[-1]


def fits(inputs: int, group: int) -> bool:
    """Whether a weight's rows and groups are of whole vectors."""
    return inputs > 0 and inputs % _EACH == 0 and group % _EACH == 0


def _plan(x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int) -> list[Launch]:
    """x: [rows, inputs]; data: uint8 [outputs, inputs * bits / 8], signed integers, of int4 two in
    a byte, the first in the low half; scale: float32 [outputs, groups of the inputs]; bias: float32
    [outputs] or None; y: [rows, outputs], of the dtype of x.
    """
    rows, inputs = x.shape
    outputs, group = data.shape[0], inputs // max(scale.shape[1], 1)
    if not fits(inputs, group):
        raise ValueError(f"{inputs} inputs in groups of {group}, expected multiples of {_EACH}")
    if rows > MOST_ROWS:
        raise ValueError(f"{rows} rows, expected {MOST_ROWS} at most")
    if not rows or not outputs:
        return []
    most = next(r for r in _ROWS if r >= rows)
    name = instance("gemv", c_name(x), str(bits), str(most))
    sizes = (int32(rows), int32(inputs), int32(outputs), int32(group))
    at = grid(blocks(outputs, _WARPS * _OUTPUTS))
    return [Launch(name, at, (_WARPS * 32, 1, 1), (x, data, scale, bias, y, *sizes))]


def _reference(x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int) -> None:
    q = data.view(np.int8)
    if bits == 4:
        q = np.stack([(q << 4).view(np.int8) >> 4, q >> 4], -1).reshape(len(data), -1)
    grouped = q.reshape(len(q), scale.shape[1], -1) * scale[:, :, None]
    product = x.astype(np.float32) @ grouped.reshape(len(q), -1).T
    y[...] = product if bias is None else product + bias


def _traffic(x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int) -> Traffic:
    more = 0 if bias is None else bias.nbytes
    read = x.nbytes + data.nbytes + scale.nbytes + more
    return Traffic(read + y.nbytes, 2 * x.size * data.shape[0])


GEMV = Kernel(
    name="gemv",
    source="gemv.cu",
    instances=tuple(
        instance("gemv", c_type(d), str(bits), str(rows))
        for d in _DTYPES
        for bits in (8, 4)
        for rows in _ROWS
    ),
    outputs=("y",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
