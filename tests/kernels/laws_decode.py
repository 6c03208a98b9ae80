"""Laws of attention over a paged cache and of what multiplies by quantised weights."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.kernels.law import BF16, F16, F32, SEEDS, Arguments, Law, near, normal
from tests.kernels.laws_cache import FP8, INT8

from penstock_kernels.forms import MMA, SCALAR

# A head's dimension and its group: beside what instances have, and in parts.
HEADS = {
    SCALAR: [(64, 1), (64, 4), (128, 8), (96, 3), (80, 12), (256, 2)],
    MMA: [(64, 1), (64, 12), (96, 8), (128, 8), (128, 3), (256, 2)],
}
# Beside a tile of 16 and, for tiles, a block's pass of 64, so that what is read ahead is counted.
LENGTHS = {SCALAR: [0, 1, 5, 16, 33], MMA: [0, 1, 16, 33, 64, 81, 150]}


def paged(random: Any, lengths: list[int], page_size: int, shape: Any, stored: Any) -> Arguments:
    """Rows of these lengths as the kernel is given them; slots that none has reached are NaN."""
    rows, pages = len(lengths), -(-max(*lengths, 1) // page_size)
    table = random.permutation(rows * pages + 2)[: rows * pages].reshape(rows, pages)
    size = (2, (rows * pages + 2) * page_size)
    scales = np.full((*size, shape[0]), np.nan, F32)
    caches = np.full((*size, *shape), -1, np.int8).view(stored) if stored.itemsize == 1 else None
    if caches is None:
        caches = np.full((*size, *shape), np.nan, stored)
    for row, length in enumerate(lengths):
        at = np.arange(length)
        slots = table[row, at // page_size] * page_size + at % page_size
        values = normal(random, (2, length, *shape), F32)
        caches[:, slots] = (values * 40 if stored == INT8 else values).astype(stored)
        scales[:, slots] = some_scales(random, (2, length, shape[0]))
    k_scale, v_scale = scales if stored.itemsize == 1 else (None, None)
    return {
        "k_cache": caches[0],
        "v_cache": caches[1],
        "k_scale": k_scale,
        "v_scale": v_scale,
        "table": table.astype(np.int32),
        "length": np.array(lengths, np.int32),
        "page_size": page_size,
    }


def some_scales(random: Any, shape: Any) -> Any:
    """Over four powers of ten, and some 0: one token's may count for nothing beside another's."""
    return 10 ** random.uniform(-5, -1, shape) * (random.random(shape) > 0.1)


@st.composite
def decodings(draw: st.DrawFn, form: str) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from([F16, BF16]))
    lengths = draw(st.lists(st.sampled_from(LENGTHS[form]), min_size=1, max_size=2))
    (dim, group), kv_heads = draw(st.sampled_from(HEADS[form])), draw(st.sampled_from([1, 2]))
    page_size, splits = draw(st.sampled_from([4, 16])), draw(st.sampled_from([1, 3]))
    eight = [] if form == MMA and dim == 96 else [INT8, FP8]
    stored = draw(st.sampled_from([dtype, *eight]))
    cached = paged(random, lengths, page_size, (kv_heads, dim), stored)
    q = normal(random, (len(lengths), kv_heads * group, dim), dtype)
    sinks = random.uniform(-2, 4, q.shape[1]).astype(F32)
    return {
        "q": q,
        **cached,
        "sinks": draw(st.sampled_from([None, sinks])),
        "partial": np.zeros((*q.shape[:2], splits, dim + 2), F32),
        "out": np.zeros_like(q),
        "scale": dim**-0.5,
        "softcap": draw(st.sampled_from([0.0, 0.0, 1.5])),
        "window": draw(st.sampled_from([0, 0, 1, 7, 40])),
        "form": form,
    }


def check_decoding(before: Arguments, after: Arguments) -> None:
    """One row, one head, one token after another."""
    size, kv_heads = before["page_size"], before["k_cache"].shape[1]
    for row, length in enumerate(before["length"].tolist()):
        pages = before["table"][row].tolist()
        first = max(0, length - before["window"]) if before["window"] else 0
        slots = [pages[token // size] * size + token % size for token in range(first, length)]
        for head, own in enumerate(before["q"][row].astype(float)):
            of = head // (before["q"].shape[1] // kv_heads)
            scores = np.array([own @ kept(before, "k", slot, of) for slot in slots])
            scores = scores * before["scale"]
            if before["softcap"]:
                scores = before["softcap"] * np.tanh(scores / before["softcap"])
            weights = np.exp(scores)
            total = weights.sum()
            if before["sinks"] is not None:
                total += np.exp(float(before["sinks"][head]))
            exact = np.zeros(own.size)
            for weight, slot in zip(weights / max(total, 1e-300), slots, strict=True):
                exact += weight * kept(before, "v", slot, of)
            near(after["out"][row, head], exact, before["q"].dtype)


def kept(call: Arguments, name: str, slot: int, head: int) -> Any:
    found = call[f"{name}_cache"][slot, head].astype(float)
    scale = call[f"{name}_scale"]
    return found if scale is None else found * float(scale[slot, head])


# Rows and inputs of products: beside vectors; beside tiles of 8 rows and chunks of 64 and 128.
SIZES = {
    SCALAR: ([1, 2, 3, 8], [32, 264, 544]),
    MMA: ([1, 8, 9, 16, 17, 33, 64], [128, 256, 640]),
}


@st.composite
def products(draw: st.DrawFn, form: str) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from([F16, BF16]))
    bits = draw(st.sampled_from([8, 4]))
    rows, inputs = (draw(st.sampled_from(sizes)) for sizes in SIZES[form])
    outputs = draw(st.sampled_from([1, 8, 19, 70]))
    if bits == 4:
        inputs = inputs // 32 * 32
    groups = inputs // (128 if form == MMA else 32) if bits == 4 else 1
    return {
        "x": normal(random, (rows, inputs), dtype),
        "data": random.integers(0, 256, (outputs, inputs * bits // 8)).astype(np.uint8),
        "scale": random.uniform(-0.1, 0.1, (outputs, groups)).astype(F32),
        "bias": draw(st.sampled_from([None, normal(random, outputs, F32)])),
        "y": np.zeros((rows, outputs), dtype),
        "bits": bits,
        "form": form,
    }


def check_product(before: Arguments, after: Arguments) -> None:
    """Integer times scale, one by one."""
    x, bits, wide = before["x"].astype(float), before["bits"], before["data"].astype(int)
    if bits == 4:
        wide = np.stack([wide % 16, wide // 16], -1).reshape(len(wide), -1)
    whole = np.where(wide >= 2 ** (bits - 1), wide - 2**bits, wide)
    scale = before["scale"].astype(float)
    weight = whole * np.repeat(scale, whole.shape[1] // scale.shape[1], axis=1)
    exact = x @ weight.T
    if before["bias"] is not None:
        exact = exact + before["bias"].astype(float)
    near(after["y"], exact, before["x"].dtype)


DECODE_LAWS = [
    Law("paged_decode", decodings(SCALAR), check_decoding),
    Law("paged_decode", decodings(MMA), check_decoding),
    Law("gemv", products(SCALAR), check_product),
    Law("gemv", products(MMA), check_product),
]
