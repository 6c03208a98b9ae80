"""Laws of what fills the paged cache: rotated or not, as it is or with eight bits."""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from tests.kernels.law import F32, FLOATS, SEEDS, Arguments, Law, near, normal

INT8, FP8 = np.dtype(np.int8), np.dtype(ml_dtypes.float8_e4m3fn)
MOST = {INT8: 127.0, FP8: 448.0}


@st.composite
def rotations(draw: st.DrawFn) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from(FLOATS))
    tokens, heads = draw(st.integers(1, 3)), draw(st.sampled_from([(1, 1), (4, 2), (6, 1)]))
    dim, slots, positions = draw(st.sampled_from([2, 16, 128])), 7, 11
    slot = random.permutation(slots)[:tokens].astype(np.int64)
    slot[random.random(tokens) < 0.3] = -1
    angles = random.uniform(0, 7, (positions, dim // 2))
    return {
        "q": normal(random, (tokens, heads[0], dim), dtype),
        "k": normal(random, (tokens, heads[1], dim), dtype),
        "v": normal(random, (tokens, heads[1], dim), dtype),
        "position": random.integers(0, positions, tokens).astype(np.int32),
        "slot": slot,
        "cosine": np.cos(angles).astype(F32),
        "sine": np.sin(angles).astype(F32),
        "k_cache": normal(random, (slots, heads[1], dim), dtype),
        "v_cache": normal(random, (slots, heads[1], dim), dtype),
    }


def check_rotation(before: Arguments, after: Arguments) -> None:
    """A pair of dimensions is a complex number, which its angle turns."""
    turn = before["cosine"].astype(float) + 1j * before["sine"].astype(float)
    dtype, half = before["q"].dtype, before["q"].shape[2] // 2
    k_cache, v_cache = before["k_cache"].astype(float), before["v_cache"].astype(float)
    for token, position in enumerate(before["position"]):

        def turned(heads: Any, by: Any = turn[position]) -> Any:
            z = (heads[:, :half].astype(float) + 1j * heads[:, half:].astype(float)) * by
            return np.concatenate([z.real, z.imag], axis=1)

        near(after["q"][token], turned(before["q"][token]), dtype)
        slot = before["slot"][token]
        if slot >= 0:
            k_cache[slot] = turned(before["k"][token])
            v_cache[slot] = before["v"][token].astype(float)
    near(after["k_cache"], k_cache, dtype)
    np.testing.assert_array_equal(after["v_cache"].astype(float), v_cache)


@st.composite
def writes(draw: st.DrawFn) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from(FLOATS))
    tokens, heads = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3]))
    dims, slots = draw(st.sampled_from([(1, 1), (64, 64), (40, 128)])), 8
    stored = draw(st.sampled_from([dtype, INT8, FP8]))
    slot = random.permutation(slots)[:tokens].astype(np.int64)
    slot[random.random(tokens) < 0.3] = -1
    new = [normal(random, (tokens, heads, dim), dtype) for dim in dims]
    if draw(st.booleans()):
        new[0][0, 0] = 0
    caches = [normal(random, (2, slots // 2, heads, dim), F32).astype(stored) for dim in dims]
    scales = [normal(random, (2, slots // 2, heads), F32) for _ in dims]
    return {
        "k": new[0],
        "v": new[1],
        "slot": slot,
        "k_cache": caches[0],
        "v_cache": caches[1],
        "k_scale": None if stored == dtype else scales[0],
        "v_scale": None if stored == dtype else scales[1],
    }


def check_write(before: Arguments, after: Arguments) -> None:
    """What was kept is within half a step, and nothing else is touched."""
    kept = before["slot"] >= 0
    for name in ("k", "v"):
        new, cache = before[name][kept], after[f"{name}_cache"]
        flat = cache.reshape(-1, *cache.shape[2:])
        others = np.setdiff1d(np.arange(len(flat)), before["slot"])
        old = before[f"{name}_cache"].reshape(flat.shape)
        assert flat[others].tobytes() == old[others].tobytes()
        found = flat[before["slot"][kept]]
        if cache.dtype == before[name].dtype:
            assert found.tobytes() == new.tobytes()
            continue
        scale = after[f"{name}_scale"].reshape(-1, cache.shape[2])
        assert (scale[others] == before[f"{name}_scale"].reshape(scale.shape)[others]).all()
        check_stored(new.astype(float), found, scale[before["slot"][kept]], MOST[cache.dtype])


def check_stored(exact: Any, found: Any, scale: Any, most: float) -> None:
    near(scale, np.abs(exact).max(axis=2, initial=0) / most, F32)
    step = scale.astype(float)[..., None]
    # An integer is half a step away; a float of three bits a sixteenth, or half of the least.
    size = np.maximum(np.abs(exact) / 16, step * 2.0**-10) if most == 448 else step / 2
    assert (np.abs(exact - found.astype(float) * step) <= size * (1 + 1e-4) + 1e-30).all()


CACHE_LAWS = [
    Law("rotary_cache", rotations(), check_rotation, kept=("q", "k_cache", "v_cache")),
    Law("cache_write", writes(), check_write, kept=("k_cache", "v_cache", "k_scale", "v_scale")),
]
