"""SiLU of one half of a matrix product, times the other half."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    GRID_LIMITS,
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

_THREADS = 256
_VECTOR_BYTES = 16
_DTYPES = ("float16", "bfloat16", "float32")


def _plan(both: Any, out: Any) -> list[Launch]:
    """both: [rows, 2 * width], gate and up side by side; out: [rows, width], of the same dtype.
    ValueError for a width that is no multiple of 16 bytes.
    """
    rows, width = out.shape
    each = _VECTOR_BYTES // out.dtype.itemsize
    if width % each:
        raise ValueError(f"rows of width {width}, expected a multiple of {each}")
    if not rows or not width:
        return []
    name, across = instance("silu_mul", c_name(out)), blocks(width, each * _THREADS)
    return [
        Launch(
            name,
            grid(across, min(GRID_LIMITS[1], rows - at)),
            (_THREADS, 1, 1),
            (both[at : at + GRID_LIMITS[1]], out[at : at + GRID_LIMITS[1]], int32(width)),
        )
        for at in range(0, rows, GRID_LIMITS[1])
    ]


def _reference(both: Any, out: Any) -> None:
    wide = both.astype(np.float32)
    gate, up = wide[:, : out.shape[1]], wide[:, out.shape[1] :]
    with np.errstate(over="ignore"):
        out[...] = gate / (1 + np.exp(-gate)) * up


def _traffic(both: Any, out: Any) -> Traffic:
    return Traffic(both.nbytes + out.nbytes, 4 * out.size)


SILU_MUL = Kernel(
    name="silu_mul",
    source="activation.cu",
    instances=tuple(instance("silu_mul", c_type(d)) for d in _DTYPES),
    outputs=("out",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
