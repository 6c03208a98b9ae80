"""Attention of one new token of each row over its paged cache, with grouped query heads."""

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

_WARPS = 4
_DTYPES = ("float16", "bfloat16")
_DIMENSIONS = (64, 128)
_GROUPS = (1, 4, 8)


def wanted_splits(rows: int, kv_heads: int, longest: int, processors: int) -> int:
    """Into how many parts each row's cache is cut, so that every multiprocessor has two blocks;
    never parts of fewer than 64 tokens.
    """
    blocks = max(1, rows * kv_heads)
    return max(1, min(-(-2 * processors // blocks), -(-longest // 64)))


def _plan(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    table: Any,
    length: Any,
    partial: Any,
    out: Any,
    scale: float,
    page_size: int,
) -> list[Launch]:
    """q, out: [rows, heads, dim]; caches: [slots, kv heads, dim], slot = page * page_size + offset;
    table: int32 [rows, pages]; length: int32 [rows], tokens in the cache; partial: float32 [rows,
    heads, splits, dim + 2], which is scratch and says how many splits there are.
    """
    rows, heads, dim = q.shape
    kv_heads, splits = k_cache.shape[1], partial.shape[2]
    _check(heads, kv_heads, dim)
    if not rows:
        return []
    element = c_name(q)
    sizes = (int32(page_size), int32(table.shape[1]), int32(kv_heads), int32(splits))
    given = (q, k_cache, v_cache, table, length, partial, float32(scale), *sizes)
    return [
        Launch(
            _split_instance(element, dim, heads // kv_heads),
            grid(kv_heads, splits, rows),
            (_WARPS * 32, 1, 1),
            given,
        ),
        Launch(
            instance("merge_splits", element, str(dim)),
            grid(heads, rows),
            (dim, 1, 1),
            (partial, out, int32(splits)),
        ),
    ]


def _check(heads: int, kv_heads: int, dim: int) -> None:
    if dim not in _DIMENSIONS:
        raise ValueError(f"heads of dimension {dim}, expected one of {_DIMENSIONS}")
    if heads % kv_heads or heads // kv_heads not in _GROUPS:
        raise ValueError(
            f"{heads} query heads for {kv_heads} of the cache, expected {_GROUPS} for each"
        )


def _reference(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    table: Any,
    length: Any,
    partial: Any,
    out: Any,
    scale: float,
    page_size: int,
) -> None:
    kv_heads = k_cache.shape[1]
    for row, tokens in enumerate(length.tolist()):
        at = np.arange(tokens)
        slots = table[row, at // page_size].astype(np.int64) * page_size + at % page_size
        keys, values = (cache[slots].astype(np.float32) for cache in (k_cache, v_cache))
        heads = q[row].astype(np.float32).reshape(kv_heads, -1, q.shape[2])
        scores = np.einsum("hgd,thd->hgt", heads, keys) * np.float32(scale)
        weights = np.exp(scores - scores.max(axis=2, keepdims=True, initial=-np.inf))
        total = np.maximum(weights.sum(axis=2, keepdims=True), np.float32(1e-30))
        out[row] = np.einsum("hgt,thd->hgd", weights / total, values).reshape(out[row].shape)


def _traffic(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    table: Any,
    length: Any,
    partial: Any,
    out: Any,
    scale: float,
    page_size: int,
) -> Traffic:
    tokens = int(length.sum())
    read = 2 * tokens * k_cache.shape[1] * k_cache.shape[2] * k_cache.dtype.itemsize
    ends = q.nbytes + out.nbytes + length.nbytes + 4 * -(-tokens // page_size)
    return Traffic(read + ends, 4 * tokens * q.shape[1] * q.shape[2])


def _split_instance(element: str, dim: int, group: int) -> str:
    return instance("decode_split", element, str(dim), str(group), str(_WARPS))


PAGED_DECODE = Kernel(
    name="paged_decode",
    source="paged_decode.cu",
    instances=(
        *(_split_instance(c_type(t), d, g) for t in _DTYPES for d in _DIMENSIONS for g in _GROUPS),
        *(instance("merge_splits", c_type(t), str(d)) for t in _DTYPES for d in _DIMENSIONS),
    ),
    outputs=("out", "partial"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
