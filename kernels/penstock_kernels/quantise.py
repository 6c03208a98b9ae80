"""Floats as int8, or as int4 two in a byte (the first in the low half), a scale for each group.

Symmetric: the greatest magnitude of a group becomes 127 or 7, ties round to even.
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
    int64,
)

_THREADS = 256
_WARP = 32
_DTYPES = ("float32", "float16", "bfloat16")
_BITS = (8, 4)


def _quantise_plan(x: Any, packed: Any, scale: Any, bits: int) -> list[Launch]:
    """x: [groups, group], finite; packed: uint8 [groups, group] or [groups, group / 2]; scale:
    float32 [groups].
    """
    groups, group = x.shape
    _check(group, bits)
    if not x.size:
        return []
    name = instance("quantise", c_name(x), str(bits))
    where = grid(blocks(groups, _THREADS // _WARP))
    arguments = (x, packed, scale, int32(groups), int32(group))
    return [Launch(name, where, (_THREADS, 1, 1), arguments)]


def _quantise_reference(x: Any, packed: Any, scale: Any, bits: int) -> None:
    limit = np.float32(_limit(bits))
    wide = x.astype(np.float32)
    highest = np.abs(wide).max(axis=1, initial=0)
    scale[...] = highest / limit
    inverse = np.divide(limit, highest, out=np.zeros_like(highest), where=highest > 0)
    q = np.clip(np.rint(wide * inverse[:, None]), -limit, limit).astype(np.int8).view(np.uint8)
    packed[...] = q if bits == 8 else (q[:, ::2] & 15) | (q[:, 1::2] & 15) << 4


def _quantise_traffic(x: Any, packed: Any, scale: Any, bits: int) -> Traffic:
    return Traffic(x.nbytes + packed.nbytes + scale.nbytes, 2 * x.size)


def _dequantise_plan(packed: Any, scale: Any, out: Any, bits: int) -> list[Launch]:
    """packed: uint8 [groups, group] or [groups, group / 2]; scale: float32 [groups]; out: [groups,
    group].
    """
    _check(out.shape[1], bits)
    if not out.size:
        return []
    size = out.shape[0] * out.shape[1]
    name = instance("dequantise", c_name(out), str(bits))
    where = grid(blocks(size, 2 * _THREADS))
    arguments = (packed, scale, out, int64(size), int32(out.shape[1]))
    return [Launch(name, where, (_THREADS, 1, 1), arguments)]


def _dequantise_reference(packed: Any, scale: Any, out: Any, bits: int) -> None:
    q = packed.view(np.int8)
    if bits == 4:
        # A signed shift to the right brings the sign of each half along.
        q = np.stack([(packed << 4).view(np.int8) >> 4, q >> 4], axis=-1).reshape(out.shape)
    out[...] = (q.astype(np.float32) * scale[:, None]).astype(out.dtype)


def _dequantise_traffic(packed: Any, scale: Any, out: Any, bits: int) -> Traffic:
    return Traffic(packed.nbytes + scale.nbytes + out.nbytes, out.size)


def _limit(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _check(group: int, bits: int) -> None:
    if bits not in _BITS:
        raise ValueError(f"{bits} bits, expected one of {_BITS}")
    if bits == 4 and group % 2:
        raise ValueError(f"groups of {group} elements, expected an even number: two share a byte")


def _instances(kernel: str) -> tuple[str, ...]:
    return tuple(instance(kernel, c_type(d), str(bits)) for d in _DTYPES for bits in _BITS)


QUANTISE = Kernel(
    name="quantise",
    source="quantise.cu",
    instances=_instances("quantise"),
    outputs=("packed", "scale"),
    plan=_quantise_plan,
    reference=_quantise_reference,
    traffic=_quantise_traffic,
)
DEQUANTISE = Kernel(
    name="dequantise",
    source="quantise.cu",
    instances=_instances("dequantise"),
    outputs=("out",),
    plan=_dequantise_plan,
    reference=_dequantise_reference,
    traffic=_dequantise_traffic,
)
