"""Rotary position embedding of queries and keys; keys and values go to the paged cache."""

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

_THREADS = 256
_DTYPES = ("float16", "bfloat16", "float32")


def _plan(
    q: Any,
    k: Any,
    v: Any,
    position: Any,
    slot: Any,
    cosine: Any,
    sine: Any,
    k_cache: Any,
    v_cache: Any,
) -> list[Launch]:
    """q: [tokens, heads, dim], rotated in place; k, v: [tokens, kv heads, dim]; position: int32
    [tokens]; slot: int64 [tokens], negative: not kept; cosine, sine: float32 [positions, dim / 2];
    caches: [slots, kv heads, dim].
    """
    tokens, heads, dim = q.shape
    if dim % 2:
        raise ValueError(f"heads of dimension {dim}, expected an even one: they turn in pairs")
    if not tokens:
        return []
    arguments = (q, k, v, position, slot, cosine, sine, k_cache, v_cache)
    sizes = (int32(heads), int32(k.shape[1]), int32(dim))
    name = instance("rotary_cache", c_name(q))
    return [Launch(name, grid(tokens), (_THREADS, 1, 1), arguments + sizes)]


def _reference(
    q: Any,
    k: Any,
    v: Any,
    position: Any,
    slot: Any,
    cosine: Any,
    sine: Any,
    k_cache: Any,
    v_cache: Any,
) -> None:
    turn = cosine[position][:, None, :], sine[position][:, None, :]
    q[...] = _rotated(q, *turn).astype(q.dtype)
    kept = slot >= 0
    k_cache[slot[kept]] = _rotated(k, *turn).astype(k.dtype)[kept]
    v_cache[slot[kept]] = v[kept]


def _rotated(x: Any, cosine: Any, sine: Any) -> Any:
    half = x.shape[2] // 2
    wide = x.astype(np.float32)
    a, b = wide[..., :half], wide[..., half:]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=2)


def _traffic(
    q: Any,
    k: Any,
    v: Any,
    position: Any,
    slot: Any,
    cosine: Any,
    sine: Any,
    k_cache: Any,
    v_cache: Any,
) -> Traffic:
    angles = 2 * q.shape[0] * q.shape[2] // 2 * 4
    kept = int((slot >= 0).sum()) * k.shape[1] * k.shape[2] * k.dtype.itemsize
    return Traffic(
        2 * q.nbytes + 4 * kept + position.nbytes + slot.nbytes + angles, 3 * (q.size + k.size)
    )


ROTARY_CACHE = Kernel(
    name="rotary_cache",
    source="rotary_cache.cu",
    instances=tuple(instance("rotary_cache", c_type(d)) for d in _DTYPES),
    outputs=("q", "k_cache", "v_cache"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
