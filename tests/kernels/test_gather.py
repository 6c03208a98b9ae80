"""Laws of the way into a batch and back: what went in comes out, and padding stays inside."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.executor import CACHE, needs_compiler

from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.registry import kernel
from penstock_kernels.run import Reference, Runner

RUNNERS = [
    pytest.param(Reference(), id="reference"),
    pytest.param(Emulated(CACHE, order=5), id="emulated", marks=needs_compiler),
]
DTYPES = [np.float32, np.float16, np.int64, np.int32, np.uint8]
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


def laid_out(counts: list[int], dtype: Any, gap: int) -> tuple[Any, Any]:
    """Where rows of these lengths begin, `gap` elements apart; and a slab for all of them."""
    size = np.dtype(dtype).itemsize
    ends = np.cumsum([(count + gap) * size for count in counts])
    starts = ends - np.array(counts) * size
    return starts.astype(np.int64), np.full(int(ends[-1]), 0xEE, np.uint8)


@pytest.mark.parametrize("runner", RUNNERS)
@settings(max_examples=30)
@given(
    counts=COUNTS,
    dtype=st.sampled_from(DTYPES),
    gaps=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32 - 1),
)
def test_scatter_undoes_gather_and_touches_nothing_else(
    runner: Runner, counts: list[int], dtype: Any, gaps: tuple[int, int], seed: int
) -> None:
    """For any ragged batch: each row returns, and no byte between the rows is padding's."""
    start, slab = laid_out(counts, dtype, gaps[0])
    goal, back = laid_out(counts, dtype, gaps[1])
    slab[:] = np.random.default_rng(seed).integers(0, 256, slab.size)
    count = np.array(counts, np.int32)
    batch = np.zeros((len(counts), max(counts) + 1), dtype)
    given = {"start": start, "count": count, "dtype": dtype, "slab": slab}

    runner.run(kernel("gather_pad"), {**given, "out": batch, "mask": None, "pad": 1.0})
    runner.run(
        kernel("scatter_rows"),
        {"batch": batch, "start": goal, "count": count, "dtype": dtype, "slab": back},
    )

    wanted = np.full_like(back, 0xEE)
    for begin, end, elements in zip(start, goal, counts, strict=True):
        size = elements * np.dtype(dtype).itemsize
        wanted[end : end + size] = slab[begin : begin + size]
    assert back.tobytes() == wanted.tobytes()
