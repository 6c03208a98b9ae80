"""What the laws of all kernels share: the form of a law, dtypes, and how near is near enough."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

Arguments = dict[str, Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)
FLOATS = (F16, BF16, F32)
# Of the largest magnitude: a few units in the last place of the output.
TOLERANCE = {F16: 1.1e-3, BF16: 8.5e-3, F32: 4e-6}
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Law:
    """`check` is given the arguments before and after the run, and asserts."""

    kernel: str
    arguments: st.SearchStrategy[Arguments]
    check: Callable[[Arguments, Arguments], None]
    # Outputs whose old content matters are not poisoned.
    kept: tuple[str, ...] = field(default=())


def near(actual: Any, exact: Any, dtype: Any) -> None:
    """Equal to float64 within the tolerance of a dtype, relative to the largest magnitude."""
    exact = np.asarray(exact, np.float64)
    largest = float(np.abs(exact).max(initial=0))
    difference = np.abs(np.asarray(actual).astype(np.float64) - exact)
    # Said by `not greater`, NaN would pass.
    assert (difference <= TOLERANCE[np.dtype(dtype)] * largest + 1e-7).all(), difference.max()


def normal(random: Any, shape: Any, dtype: Any) -> Any:
    return random.standard_normal(shape).astype(dtype)
