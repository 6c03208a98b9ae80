"""New keys and values to their slots of the paged cache, as they are or with eight bits."""

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
from penstock_kernels.eight_bits import LIMITS, stored

_WARPS = 4
_DTYPES = ("float16", "bfloat16", "float32")


def _plan(
    k: Any, v: Any, slot: Any, k_cache: Any, v_cache: Any, k_scale: Any, v_scale: Any
) -> list[Launch]:
    """k: [tokens, kv heads, key dim], v: [tokens, kv heads, value dim]; slot: int64 [tokens], page
    * page size + offset, negative: not kept; caches: [..., kv heads, dim], flat [slots, kv heads,
    dim], of the dtype of k, or int8 or float8_e4m3fn with scales float32 [..., kv heads]: value =
    stored * scale.
    """
    tokens, kv_heads, key_dim = k.shape
    quantised = c_name(k_cache) != c_name(k)
    if quantised and (k_scale is None or v_scale is None):
        raise ValueError(f"a cache of {k_cache.dtype} without scales, expected one for each head")
    if not tokens:
        return []
    heads = tokens * kv_heads
    scales = (k_scale, v_scale) if quantised else (None, None)
    sizes = (int32(heads), int32(kv_heads), int32(key_dim), int32(v.shape[2]))
    name = instance("cache_write", c_name(k), c_name(k_cache))
    arguments = (k, v, slot, k_cache, v_cache, *scales, *sizes)
    return [Launch(name, grid(blocks(2 * heads, _WARPS)), (_WARPS * 32, 1, 1), arguments)]


def _reference(
    k: Any, v: Any, slot: Any, k_cache: Any, v_cache: Any, k_scale: Any, v_scale: Any
) -> None:
    kept = slot >= 0
    for every, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        flat, new = cache.reshape(-1, *cache.shape[-2:]), every[kept]
        if str(cache.dtype) not in LIMITS:
            flat[slot[kept]] = new
            continue
        wide = new.astype(np.float32)
        step = np.abs(wide).max(axis=2, initial=0) / np.float32(LIMITS[str(cache.dtype)])
        whole = wide / np.maximum(step, np.float32(1e-30))[..., None]
        flat[slot[kept]] = stored(whole, cache.dtype)
        scale.reshape(-1, cache.shape[-2])[slot[kept]] = step


def _traffic(
    k: Any, v: Any, slot: Any, k_cache: Any, v_cache: Any, k_scale: Any, v_scale: Any
) -> Traffic:
    kept = int((slot >= 0).sum()) * k.shape[1]
    written = k.shape[2] * k_cache.dtype.itemsize + v.shape[2] * v_cache.dtype.itemsize
    scales = 0 if k_scale is None else 8
    return Traffic(k.nbytes + v.nbytes + slot.nbytes + kept * (written + scales), k.size + v.size)


def _instances() -> tuple[str, ...]:
    kinds = [(c_type(t), c_type(s)) for t in _DTYPES for s in (t, *LIMITS)]
    return tuple(instance("cache_write", *kind) for kind in kinds)


CACHE_WRITE = Kernel(
    name="cache_write",
    source="cache_write.cu",
    instances=_instances(),
    outputs=("k_cache", "v_cache", "k_scale", "v_scale"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
