"""The highest values of each row and where they are, as probabilities if asked."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)
from penstock_kernels.topk import top_k

_THREADS = 256
_DTYPES = ("float32", "float16", "bfloat16")


def _plan(values: Any, scores: Any, columns: Any, softmax: bool) -> list[Launch]:
    """values: [rows, width]; scores: float32 [rows, k]; columns: int32 [rows, k], k <= width."""
    rows, width = values.shape
    k = scores.shape[1]
    if not 1 <= k <= width:
        raise ValueError(f"k is {k}, expected 1 to the {width} values of a row")
    if not rows:
        return []
    arguments = (values, scores, columns, int32(width), int32(k))
    name = _instance(c_name(values), softmax)
    return [Launch(name, grid(rows), (_THREADS, 1, 1), arguments)]


def _reference(values: Any, scores: Any, columns: Any, softmax: bool) -> None:
    wide = values.astype(np.float32)
    columns[...] = top_k(wide, scores.shape[1])
    if softmax:
        with np.errstate(invalid="ignore"):
            wide = np.exp(wide - np.fmax.reduce(wide, axis=1, keepdims=True))
            wide /= wide.sum(axis=1, keepdims=True)
    scores[...] = np.take_along_axis(wide, columns, axis=1)


def _traffic(values: Any, scores: Any, columns: Any, softmax: bool) -> Traffic:
    return Traffic(
        values.nbytes + scores.nbytes + columns.nbytes, 4 * values.size if softmax else 0
    )


def _instance(element: str, softmax: bool) -> str:
    return instance("top_k", element, "true" if softmax else "false", str(_THREADS))


TOP_K = Kernel(
    name="top_k",
    source="topk.cu",
    instances=tuple(_instance(c_type(d), s) for d in _DTYPES for s in (False, True)),
    outputs=("scores", "columns"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
