"""RMSNorm of a transformer's layer, with the residual's addition before it."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    c_name,
    c_type,
    float32,
    grid,
    instance,
    int32,
)

_DTYPES = ("float16", "bfloat16", "float32")
# Threads and vectors for each, from narrow rows to wide ones.
_SHAPES = ((128, 1), (256, 2), (512, 4))
_VECTOR_BYTES = 16


def _plan(x: Any, residual: Any, weight: Any, out: Any, epsilon: float) -> list[Launch]:
    """x, residual, out: [rows, width]; weight: [width]; all of one dtype. The residual is
    written too. ValueError for a width that is no multiple of 16 bytes, or too wide for a block.
    """
    rows, width = x.shape
    each = _VECTOR_BYTES // x.dtype.itemsize
    widest = each * _SHAPES[-1][0] * _SHAPES[-1][1]
    if width % each or not 0 < width <= widest:
        raise ValueError(f"rows of width {width}, expected a multiple of {each} up to {widest}")
    if not rows:
        return []
    threads, vectors = next(shape for shape in _SHAPES if width <= each * shape[0] * shape[1])
    name = _instance(c_name(x), threads, vectors)
    arguments = (x, residual, weight, out, int32(width), float32(epsilon))
    return [Launch(name, grid(rows), (threads, 1, 1), arguments)]


def _reference(x: Any, residual: Any, weight: Any, out: Any, epsilon: float) -> None:
    residual[...] = (x.astype(np.float32) + residual.astype(np.float32)).astype(residual.dtype)
    wide = residual.astype(np.float32)
    square = np.square(wide).mean(axis=1, keepdims=True)
    out[...] = wide / np.sqrt(square + np.float32(epsilon)) * weight.astype(np.float32)


def _traffic(x: Any, residual: Any, weight: Any, out: Any, epsilon: float) -> Traffic:
    return Traffic(x.nbytes + 2 * residual.nbytes + weight.nbytes + out.nbytes, 5 * x.size)


def _instance(element: str, threads: int, vectors: int) -> str:
    return instance("rmsnorm_residual", element, str(threads), str(vectors))


RMSNORM_RESIDUAL = Kernel(
    name="rmsnorm_residual",
    source="norm.cu",
    instances=tuple(_instance(c_type(d), *shape) for d in _DTYPES for shape in _SHAPES),
    outputs=("residual", "out"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
