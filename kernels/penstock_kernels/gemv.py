"""Up to 64 rows times a weight of int8 or packed int4, which is never written out as floats: a few
by scalars, more by tensor cores.
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
    grid,
    instance,
    int32,
)
from penstock_kernels.forms import AUTO, MMA, SCALAR, Choice, taken

_WARPS = 4
# As in the source: outputs of a warp, integers of a lane at a time.
_OUTPUTS, _EACH = 2, 8
_DTYPES = ("float16", "bfloat16")
_ROWS = (1, 2, 4, 8)
# By tensor cores.
_MORE_ROWS = (8, 16, 32, 64)
# Blocks that a device is to have at least, before a warp makes outputs by itself.
_BLOCKS = 128


def fits(inputs: int, group: int) -> bool:
    """Whether a weight's rows and groups are of whole vectors."""
    return inputs > 0 and inputs % _EACH == 0 and group % _EACH == 0


def gemv_form(inputs: int, group: int, bits: int) -> Choice:
    """The form for any number of rows, so that a row's answer is the same beside any others.

    By counted instructions (docs/DECISIONS.md): scalars take longer than memory even for one row,
    tensor cores need whole chunks of four lanes in each group, and of int8 one group.
    """
    chunk = 4 * 128 // bits
    if bits == 8 and group != inputs:
        return Choice(SCALAR, f"groups of {group} of {inputs} inputs of int8, expected one group")
    if group % chunk:
        return Choice(SCALAR, f"groups of {group} inputs, expected a multiple of {chunk}")
    return Choice(MMA, f"int{bits} in whole chunks: scalars would take longer than memory")


def most_rows(inputs: int, group: int, bits: int) -> int:
    """How many rows can be multiplied by such a weight."""
    return _MORE_ROWS[-1] if gemv_form(inputs, group, bits).form == MMA else _ROWS[-1]


def _plan(
    x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int, form: str = AUTO
) -> list[Launch]:
    """x: [rows, inputs]; data: uint8 [outputs, inputs * bits / 8], signed integers, of int4 two in
    a byte, the first in the low half; scale: float32 [outputs, groups of the inputs]; bias: float32
    [outputs] or None; y: [rows, outputs], of the dtype of x; form: as in forms, for who measures.
    """
    rows, inputs = x.shape
    outputs, group = data.shape[0], inputs // max(scale.shape[1], 1)
    if not fits(inputs, group):
        raise ValueError(f"{inputs} inputs in groups of {group}, expected multiples of {_EACH}")
    tensor = taken(form, gemv_form(inputs, group, bits)) == MMA
    held = _MORE_ROWS if tensor else _ROWS
    if rows > held[-1]:
        raise ValueError(f"{rows} rows, expected {held[-1]} at most")
    if not rows or not outputs:
        return []
    name = "gemv_mma" if tensor else "gemv"
    name = instance(name, c_name(x), str(bits), str(next(r for r in held if r >= rows)))
    sizes = [int32(rows), int32(inputs), int32(outputs), int32(group)]
    wide = _WARPS * _OUTPUTS
    if tensor:
        parts = _parts(outputs)
        sizes.append(int32(parts))
        wide = _tall(bits, rows) * _WARPS // parts
    at = grid(blocks(outputs, wide))
    return [Launch(name, at, (_WARPS * 32, 1, 1), (x, data, scale, bias, y, *sizes))]


def _tall(bits: int, rows: int) -> int:
    """The outputs of a warp of the tensor cores' form, as in the source."""
    return 16 if bits == 4 and rows > 32 else 32


def _parts(outputs: int) -> int:
    """How many warps of a block share outputs: as few as leave a device enough blocks, since each
    block reads all of x. Not by the number of rows, of which the order of a sum would depend.
    """
    enough = (p for p in (1, 2) if blocks(outputs, 32 * _WARPS // p) >= _BLOCKS)
    return next(enough, _WARPS)


def _reference(
    x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int, form: str = AUTO
) -> None:
    q = data.view(np.int8)
    if bits == 4:
        q = np.stack([(q << 4).view(np.int8) >> 4, q >> 4], -1).reshape(len(data), -1)
    grouped = q.reshape(len(q), scale.shape[1], -1) * scale[:, :, None]
    product = x.astype(np.float32) @ grouped.reshape(len(q), -1).T
    y[...] = product if bias is None else product + bias


def _traffic(
    x: Any, data: Any, scale: Any, bias: Any, y: Any, bits: int, form: str = AUTO
) -> Traffic:
    more = 0 if bias is None else bias.nbytes
    read = x.nbytes + data.nbytes + scale.nbytes + more
    return Traffic(read + y.nbytes, 2 * x.size * data.shape[0])


GEMV = Kernel(
    name="gemv",
    source="gemv.cu",
    instances=tuple(
        instance(name, c_type(d), str(bits), str(rows))
        for name, held in (("gemv", _ROWS), ("gemv_mma", _MORE_ROWS))
        for d in _DTYPES
        for bits in (8, 4)
        for rows in held
    ),
    outputs=("y",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
