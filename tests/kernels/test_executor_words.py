"""Laws of the executor's vocabulary: each word of CUDA means what it means on a GPU."""

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from tests.kernels.executor import CACHE, ORDERS, launch, needs_compiler, planted

from penstock_kernels.declare import Launch, int32
from penstock_kernels.emulate.compile import CompileError
from penstock_kernels.emulate.module import Module

pytestmark = needs_compiler

HALVES: list[tuple[str, Any]] = [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)]
NAMES = [
    "warp_words",
    "atomics",
    "places",
    "two_groups",
    "bytes_chosen",
    "fast_functions",
    *[f"{kernel}<{half}>" for kernel in ("round_trip", "tile", "fused") for half, _ in HALVES],
]


@cache
def module() -> Module:
    return planted("words.cu", NAMES)


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_exchange_as_on_a_gpu(order: int) -> None:
    """Shuffles with and without a width, votes and reductions, in two warps at once."""
    out = np.full((64, 12), -1, np.int32)

    launch(module(), "warp_words", (out,), (out,), threads=64, order=order)

    for thread, row in enumerate(out.tolist()):
        lane = thread % 32
        assert row[:5] == [
            5,
            lane // 8 * 8 + 1,
            lane - 3 if lane >= 3 else lane,
            lane + 3 if lane < 29 else lane,
            lane ^ 7,
        ]
        assert row[5] & 0xFFFFFFFF == sum(1 << i for i in range(0, 32, 3))
        assert row[6:] == [1, 0, 496, 31, 2, 32]


@pytest.mark.parametrize("order", ORDERS)
def test_atomics_lose_nothing(order: int) -> None:
    """Every thread of every block is counted once."""
    out = np.array([0, -1, 1000, 0], np.int32)

    launch(module(), "atomics", (out,), (out,), threads=96, blocks=3, order=order)

    assert out.tolist() == [2 * 96 * 3, 95, 0, 3 * 96 * 3]


@pytest.mark.parametrize("order", ORDERS)
def test_every_thread_of_a_three_dimensional_launch_runs_once(order: int) -> None:
    """Indices and sizes are those of the launch in all three dimensions."""
    out = np.full(12 * 24, -1, np.int32)

    module().launch(Launch("places", (3, 2, 2), (4, 3, 2), (out,)), (out,), order)

    assert out.tolist() == [b * 1000 + t for b in range(12) for t in range(24)]


@pytest.mark.parametrize("order", ORDERS)
def test_an_older_group_of_copies_is_there_before_a_younger(order: int) -> None:
    """wait(1) leaves one group open, wait(0) none."""
    x, out = np.arange(256, dtype=np.float32), np.zeros(64, np.float32)

    launch(module(), "two_groups", (x, out), (out,), order=order)

    assert out.tolist() == [*range(127, 95, -1), *range(255, 223, -1)]


def converted(half: str, dtype: Any, x: Any) -> None:
    there, back = np.zeros(x.size, dtype), np.zeros(x.size, np.float32)
    launch(
        module(),
        f"round_trip<{half}>",
        (x, there, back, int32(x.size)),
        (there, back),
        threads=256,
        blocks=-(-x.size // 256),
    )

    with np.errstate(over="ignore"):
        right = x.astype(dtype)
    numbers = ~np.isnan(x)
    np.testing.assert_array_equal(there.view(np.uint16)[numbers], right.view(np.uint16)[numbers])
    np.testing.assert_array_equal(back, right.astype(np.float32))


@pytest.mark.parametrize(("half", "dtype"), HALVES)
def test_every_half_and_what_lies_between_converts_as_in_numpy(half: str, dtype: Any) -> None:
    """All 65536 halves, points halfway to their neighbours, and a hair to either side of those."""
    exact = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    bits = exact.view(np.uint32)
    step = np.uint32(0x1000 if half == "f16" else 0x8000)
    near = [(bits + step + np.uint32(by)).view(np.float32) for by in (0, 1)]

    converted(half, dtype, np.concatenate([exact, *near, (bits + step - 1).view(np.float32)]))


@pytest.mark.parametrize(("half", "dtype"), HALVES)
@given(some.arrays(np.float32, 40, elements=st.floats(width=32)))
def test_any_float_becomes_the_half_that_numpy_makes_of_it(half: str, dtype: Any, x: Any) -> None:
    """Ties to even, subnormals, infinities; NaN stays NaN."""
    converted(half, dtype, x)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("half", "dtype"), HALVES)
def test_a_tile_is_multiplied_as_in_float64(half: str, dtype: Any, order: int) -> None:
    """Fragments lie as the PTX manual says; sums are those of floats."""
    random = np.random.default_rng(order)
    a = random.standard_normal((16, 16)).astype(dtype)
    b = random.standard_normal((16, 8)).astype(dtype)
    out = np.zeros((16, 8), np.float32)

    launch(module(), f"tile<{half}>", (a, b, out), (out,), order=order)

    np.testing.assert_allclose(out, a.astype(float) @ b.astype(float), atol=3e-6)


def test_bytes_are_chosen_from_two_words() -> None:
    """Four bits of the selector for each byte, of which the highest is not looked at."""
    random = np.random.default_rng(3)
    x, y, which = random.integers(0, 2**32, (3, 32), np.uint32)
    out = np.zeros(32, np.uint32)

    launch(module(), "bytes_chosen", (x, y, which, out), (out,))

    both = np.concatenate([x[:, None].view(np.uint8), y[:, None].view(np.uint8)], axis=1)
    chosen = which[:, None] >> np.arange(0, 16, 4, dtype=np.uint32) & 7
    assert (
        out.view(np.uint8).reshape(32, 4).tolist() == np.take_along_axis(both, chosen, 1).tolist()
    )


@pytest.mark.parametrize(("half", "dtype"), HALVES)
def test_products_and_sums_of_two_halves_are_rounded_once(half: str, dtype: Any) -> None:
    """Ties to even, and what lies beside a tie; nothing is carried from one half to the other."""
    random = np.random.default_rng(4)
    signs = random.choice([-1, 1], (3, 1 << 15))
    # Of these the sums are exact in float64, and of bf16 in float32: numpy rounds them but once.
    ranges = ([1, 1, 0.25], [2, 2, 64])
    x, y, z = (random.uniform(*ranges, (1 << 15, 3)).T * signs).astype(dtype)
    out = np.zeros(x.size, dtype)

    words = [each.view(np.uint32) for each in (x, y, z, out)]
    launch(
        module(),
        f"fused<{half}>",
        (*words, int32(x.size // 2)),
        (words[3],),
        threads=256,
        blocks=x.size // 512,
    )

    exact = x.astype(float) * y.astype(float) + z.astype(float)
    np.testing.assert_array_equal(out.view(np.uint16), exact.astype(dtype).view(np.uint16))


def test_fast_functions_are_near_the_exact_ones() -> None:
    """Here they are the exact ones; a GPU's own are a few units in the last place away."""
    x, out = np.linspace(0.1, 9, 32, dtype=np.float32), np.zeros((32, 3), np.float32)

    launch(module(), "fast_functions", (x, out), (out,))

    wide = x.astype(float)
    exact = np.stack([np.exp(wide), np.log(wide), 1 / wide], axis=1)
    np.testing.assert_allclose(out, exact, rtol=1e-6)


def test_source_that_does_not_compile_says_where() -> None:
    """The compiler's own words, with the file and line of the source."""
    with pytest.raises(CompileError, match=r"kernel\.cu:2"):
        Module('#line 1 "kernel.cu"\n__global__ void k() {\n  nonsense }\n', ("k",), CACHE)
