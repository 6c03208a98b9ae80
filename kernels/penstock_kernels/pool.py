"""Sentence embeddings: the mean of each row's tokens, of length one if asked."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    SHARED_LIMIT,
    Kernel,
    Launch,
    Traffic,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)

_THREADS = 512
# Groups of threads that share a row's tokens; a wide row needs all threads for its columns.
_SLICES = (4, 1)
_STATES = ("float32", "float16", "bfloat16")
_MASKS = ("int64", "int32")


def _plan(states: Any, mask: Any, out: Any, normalise: bool) -> list[Launch]:
    """states: [rows, length, width]; mask: [rows, length], not 0 where a token is; out: float32
    [rows, width]. ValueError when a row is wider than a block's shared memory.
    """
    rows, length, width = states.shape
    needed = [(slices, slices * width * 4) for slices in _SLICES]
    fitting = [(slices, shared) for slices, shared in needed if shared <= SHARED_LIMIT - 1024]
    if not fitting:
        raise ValueError(f"states of width {width}, expected at most {(SHARED_LIMIT - 1024) // 4}")
    if not rows or not width:
        return []
    slices, shared = fitting[0]
    name = _instance(c_name(states), c_name(mask), slices)
    arguments = (states, mask, out, int32(length), int32(width), int32(normalise))
    return [Launch(name, grid(rows), (_THREADS, 1, 1), arguments, shared)]


def _reference(states: Any, mask: Any, out: Any, normalise: bool) -> None:
    for row, tokens, to in zip(states, mask != 0, out, strict=True):
        own = row[tokens].astype(np.float32)
        mean = own.sum(axis=0) / max(1, len(own))
        to[...] = mean / max(float(np.sqrt(mean @ mean)), 1e-12) if normalise else mean


def _traffic(states: Any, mask: Any, out: Any, normalise: bool) -> Traffic:
    tokens = int((mask != 0).sum())
    width = states.shape[2]
    return Traffic(
        tokens * width * states.dtype.itemsize + mask.nbytes + out.nbytes, tokens * width
    )


def _instance(states: str, mask: str, slices: int) -> str:
    return instance("mean_pool", states, mask, "float", str(_THREADS), str(slices))


MEAN_POOL = Kernel(
    name="mean_pool",
    source="pool.cu",
    instances=tuple(
        _instance(c_type(s), c_type(m), n) for s in _STATES for m in _MASKS for n in _SLICES
    ),
    outputs=("out",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
