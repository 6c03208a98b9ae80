"""Attention of one new token of each row over its paged cache, with grouped query heads."""

from math import prod
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
from penstock_kernels.decode_form import COLUMNS, DIMS, decode_form
from penstock_kernels.eight_bits import LIMITS, widened
from penstock_kernels.forms import AUTO, MMA, taken

_WARPS = 4
_DTYPES = ("float16", "bfloat16")
# The greatest dimension of a head and the query heads of a block: for a cache of the same dtype,
# and for one of eight bits, where a group of 1 is computed as one of 4.
_SHAPES = ((64, 1), (64, 4), (128, 1), (128, 4), (128, 8), (256, 4))
_EIGHT_BITS = ((64, 4), (128, 4), (128, 8), (256, 4))
_LANES = 32


def wanted_splits(rows: int, kv_heads: int, longest: int, processors: int) -> int:
    """Into how many parts each row's cache is cut, so that every multiprocessor has two blocks;
    never parts of fewer than 64 tokens.
    """
    blocks = max(1, rows * kv_heads)
    return max(1, min(-(-2 * processors // blocks), -(-longest // 64)))


def fits(dim: int) -> bool:
    """Whether heads of this dimension can be read in whole vectors."""
    own = _width(dim)
    return own is not None and dim % (own // _LANES) == 0


def _plan(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    k_scale: Any,
    v_scale: Any,
    table: Any,
    length: Any,
    sinks: Any,
    partial: Any,
    out: Any,
    scale: float,
    softcap: float,
    window: int,
    page_size: int,
    form: str = AUTO,
) -> list[Launch]:
    """q, out: [rows, heads, dim]; caches: [..., kv heads, dim], flat [slots, kv heads, dim], slot =
    page * page_size + offset; of the dtype of q, or int8 or float8_e4m3fn with scales float32 [...,
    kv heads]; table: int32 [rows, pages]; length: int32 [rows], tokens in the cache; sinks: float32
    [heads], a logit without a value for each, or None; partial: float32 [rows, heads, splits, dim +
    2], which is scratch and says how many splits there are; softcap: scores become softcap *
    tanh(score / softcap), 0 leaves them; window: how many of the last tokens are seen, 0 for all;
    form: as in forms, for who measures them; scales are not negative.
    """
    rows, heads, dim = q.shape
    kv_heads, splits = k_cache.shape[-2], partial.shape[2]
    _check(heads, kv_heads, dim, v_cache.shape[-1])
    quantised = str(k_cache.dtype).removeprefix("torch.") in LIMITS
    if quantised and (k_scale is None or v_scale is None):
        raise ValueError(f"a cache of {k_cache.dtype} without scales, expected one for each head")
    if not rows:
        return []
    group = heads // kv_heads
    name, held = _split(form, q, k_cache, group)
    parts = -(-group // held)
    scales = (k_scale, v_scale) if quantised else (None, None)
    scores = (float32(scale), float32(softcap), int32(window))
    sizes = (page_size, table.shape[1], kv_heads, group, dim, parts, splits)
    return [
        Launch(
            name,
            grid(kv_heads * parts, splits, rows),
            (_WARPS * _LANES, 1, 1),
            (q, k_cache, v_cache, *scales, table, length, partial, *scores, *map(int32, sizes)),
        ),
        Launch(
            instance("merge_splits", c_name(q)),
            grid(heads, rows),
            (dim, 1, 1),
            (partial, sinks, out, int32(splits)),
        ),
    ]


def _check(heads: int, kv_heads: int, dim: int, value_dim: int) -> None:
    if not fits(dim):
        raise ValueError(f"heads of dimension {dim}, expected a multiple of 2, 4 or 8 up to 256")
    if dim != value_dim:
        raise ValueError(f"values of dimension {value_dim}, expected {dim}, which the keys have")
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads for {kv_heads} of the cache, expected a multiple")


def _split(form: str, q: Any, cache: Any, group: int) -> tuple[str, int]:
    """The instance that reads the cache, and how many query heads a block of it serves at most."""
    dim, own, kept = q.shape[2], c_name(q), c_name(cache)
    choice = decode_form(dim, group, 2 if own == kept else 1, prod(cache.shape[:-1]))
    if taken(form, choice) == MMA:
        return _mma_instance(own, kept, dim), COLUMNS
    shape = _shape(dim, group, _EIGHT_BITS if own != kept else _SHAPES)
    return _split_instance(own, kept, *shape), shape[1]


def _width(dim: int) -> int | None:
    """The dimension of the instance for heads of this one."""
    return next((width for width in (64, 128, 256) if 0 < dim <= width), None)


def _shape(dim: int, group: int, shapes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The instance that holds the group, else the greatest, which takes it in parts."""
    own = [shape for shape in shapes if shape[0] == _width(dim)]
    return next((shape for shape in own if shape[1] >= group), own[-1])


def _reference(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    k_scale: Any,
    v_scale: Any,
    table: Any,
    length: Any,
    sinks: Any,
    partial: Any,
    out: Any,
    scale: float,
    softcap: float,
    window: int,
    page_size: int,
    form: str = AUTO,
) -> None:
    kv_heads = k_cache.shape[-2]
    for row, tokens in enumerate(length.tolist()):
        at = np.arange(max(0, tokens - window) if window else 0, tokens)
        slots = table[row, at // page_size].astype(np.int64) * page_size + at % page_size
        keys, values = _read(k_cache, k_scale, slots), _read(v_cache, v_scale, slots)
        heads = q[row].astype(np.float32).reshape(kv_heads, -1, q.shape[2])
        scores = np.einsum("hgd,thd->hgt", heads, keys) * np.float32(scale)
        if softcap:
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        found = _weights(scores, None if sinks is None else sinks.reshape(kv_heads, -1, 1))
        out[row] = np.einsum("hgt,thd->hgd", found, values).reshape(out[row].shape)


def _read(cache: Any, scale: Any, slots: Any) -> Any:
    found = cache.reshape(-1, *cache.shape[-2:])[slots]
    if str(cache.dtype) not in LIMITS:
        return found.astype(np.float32)
    return widened(found) * scale.reshape(-1, cache.shape[-2])[slots][:, :, None]


def _weights(scores: Any, sinks: Any) -> Any:
    """The softmax over tokens, of which a sink takes its part."""
    highest = scores.max(axis=2, keepdims=True, initial=-np.inf)
    if sinks is not None:
        highest = np.maximum(highest, sinks)
    weights = np.exp(scores - highest)
    total = weights.sum(axis=2, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks - highest)
    return weights / np.maximum(total, np.float32(1e-30))


def _traffic(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    k_scale: Any,
    v_scale: Any,
    table: Any,
    length: Any,
    sinks: Any,
    partial: Any,
    out: Any,
    scale: float,
    softcap: float,
    window: int,
    page_size: int,
    form: str = AUTO,
) -> Traffic:
    seen = length.clip(0, window) if window else length
    tokens = int(seen.sum())
    head = k_cache.shape[-1] * k_cache.dtype.itemsize + (0 if k_scale is None else 4)
    read = 2 * tokens * k_cache.shape[-2] * head
    ends = q.nbytes + out.nbytes + length.nbytes + 4 * -(-tokens // page_size)
    return Traffic(read + ends, 4 * tokens * q.shape[1] * q.shape[2])


def _split_instance(element: str, kept: str, dim: int, group: int) -> str:
    return instance("decode_split", element, kept, str(dim), str(group), str(_WARPS))


def _mma_instance(element: str, kept: str, dim: int) -> str:
    return instance("decode_mma", element, kept, str(dim), str(_WARPS))


def _instances() -> tuple[str, ...]:
    own = [(c_type(t), c_type(t), *shape) for t in _DTYPES for shape in _SHAPES]
    kept = [
        (c_type(t), c_type(s), *shape) for t in _DTYPES for s in LIMITS for shape in _EIGHT_BITS
    ]
    scalar = [_split_instance(*names) for names in own + kept]
    mma = [
        _mma_instance(c_type(t), c_type(s), dim)
        for t in _DTYPES
        for s in (t, *LIMITS)
        for dim in DIMS[2 if s == t else 1]
    ]
    return (*scalar, *mma, *(instance("merge_splits", c_type(t)) for t in _DTYPES))


PAGED_DECODE = Kernel(
    name="paged_decode",
    source="paged_decode.cu",
    instances=_instances(),
    outputs=("out", "partial"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
