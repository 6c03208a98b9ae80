"""Laws of launch plans, which need no device: within every limit, and nothing for nothing."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.law import Law
from tests.kernels.laws import LAWS

from penstock_kernels import registry
from penstock_kernels.declare import (
    GRID_LIMITS,
    SHARED_LIMIT,
    Launch,
    by_name,
    c_type,
    float32,
    grid,
    int32,
)
from penstock_kernels.paged_decode import wanted_splits
from penstock_kernels.run import Reference


def planned(law: Law, arguments: Any) -> list[Launch]:
    return registry.kernel(law.kernel).plan(**arguments)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kernel)
@settings(max_examples=30)
@given(data=st.data())
def test_a_launch_is_of_a_declared_instance_and_within_limits(law: Law, data: Any) -> None:
    """Grid, block and shared memory fit every device; no argument is a Python number."""
    for launch in planned(law, data.draw(law.arguments)):
        assert launch.instance in registry.kernel(law.kernel).instances
        assert all(1 <= n <= most for n, most in zip(launch.grid, GRID_LIMITS, strict=True))
        assert 1 <= np.prod(launch.block) <= 1024
        assert 0 <= launch.shared_bytes <= SHARED_LIMIT
        assert not any(isinstance(value, int | float) for value in launch.arguments)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kernel)
@settings(max_examples=10)
@given(data=st.data())
def test_traffic_is_at_least_what_is_written(law: Law, data: Any) -> None:
    """The floor counts bytes and operations, and neither is negative."""
    traffic = registry.kernel(law.kernel).traffic(**data.draw(law.arguments))

    assert traffic.bytes >= 0
    assert traffic.flops >= 0


def test_traffic_of_a_known_case_is_what_one_counts() -> None:
    """32 images of 3x224x224 from FP32 to FP16: six bytes an element, and the rows' table."""
    size, rows = 3 * 224 * 224, 32
    arguments = {
        "slab": np.empty(0, np.uint8),
        "start": np.zeros(rows, np.int64),
        "count": np.full(rows, size, np.int32),
        "dtype": np.float32,
        "out": np.empty((rows, size), np.float16),
        "mask": None,
        "pad": 0.0,
    }

    traffic = registry.kernel("gather_pad").traffic(**arguments)

    assert traffic.bytes == rows * size * 6 + rows * 12


def test_more_rows_than_a_grid_has_take_more_launches() -> None:
    """Every row is in exactly one of them."""
    rows = 2 * 65535 + 3
    both, out = np.zeros((rows, 16), np.float16), np.zeros((rows, 8), np.float16)

    launches = registry.kernel("silu_mul").plan(both=both, out=out)

    assert [launch.grid[1] for launch in launches] == [65535, 65535, 3]
    assert [len(launch.arguments[1]) for launch in launches] == [65535, 65535, 3]


EMPTY: list[tuple[str, dict[str, Any]]] = [
    (
        "gather_pad",
        {
            "slab": np.empty(0, np.uint8),
            "start": np.empty(0, np.int64),
            "count": np.empty(0, np.int32),
            "dtype": np.float32,
            "out": np.empty((0, 8), np.float16),
            "mask": None,
            "pad": 0,
        },
    ),
    ("silu_mul", {"both": np.empty((0, 16), np.float16), "out": np.empty((0, 8), np.float16)}),
    (
        "dequantise",
        {
            "packed": np.empty((0, 8), np.uint8),
            "scale": np.empty(0, np.float32),
            "out": np.empty((0, 8), np.float16),
            "bits": 8,
        },
    ),
]


@pytest.mark.parametrize(("name", "arguments"), EMPTY, ids=[name for name, _ in EMPTY])
def test_for_nothing_nothing_is_launched(name: str, arguments: dict[str, Any]) -> None:
    """An empty batch is no error, and no empty grid."""
    kernel = registry.kernel(name)

    assert kernel.plan(**arguments) == []
    Reference().run(kernel, arguments)


def shaped(*shape: int, dtype: str = "float16") -> Any:
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype), size=int(np.prod(shape)))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "rmsnorm_residual",
        {"x": shaped(1, 12), "residual": None, "weight": None, "out": None, "epsilon": 0},
        "width 12, expected a multiple of 8 up to 16384",
    ),
    (
        "rmsnorm_residual",
        {"x": shaped(1, 32768), "residual": None, "weight": None, "out": None, "epsilon": 0},
        "width 32768, expected a multiple of 8 up to 16384",
    ),
    (
        "mean_pool",
        {"states": shaped(1, 1, 20000), "mask": None, "out": None, "normalise": True},
        "width 20000, expected at most 12032",
    ),
    (
        "quantise",
        {"x": shaped(1, 7), "packed": None, "scale": None, "bits": 4},
        "groups of 7 elements, expected an even number",
    ),
    (
        "quantise",
        {"x": shaped(1, 8), "packed": None, "scale": None, "bits": 5},
        r"5 bits, expected one of \(8, 4\)",
    ),
    (
        "top_k",
        {"values": shaped(1, 4), "scores": shaped(1, 5), "columns": None, "softmax": True},
        "k is 5, expected 1 to the 4 values of a row",
    ),
    ("silu_mul", {"both": None, "out": shaped(1, 8, dtype="float64")}, "dtype float64, expected"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_what_no_instance_can_do_is_refused_with_the_number(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    """Before anything is launched, and with what would have been right."""
    with pytest.raises(ValueError, match=message):
        registry.kernel(name).plan(**arguments)


def test_a_long_row_alone_is_cut_so_that_it_fills_the_device() -> None:
    """Two blocks for each multiprocessor, but no part of fewer than 64 tokens."""
    assert wanted_splits(rows=1, kv_heads=8, longest=8192, processors=132) == 33
    assert wanted_splits(rows=64, kv_heads=8, longest=8192, processors=132) == 1
    assert wanted_splits(rows=1, kv_heads=1, longest=100, processors=132) == 2
    assert wanted_splits(rows=0, kv_heads=1, longest=0, processors=132) == 1


def test_dtypes_of_torch_and_numpy_have_one_name() -> None:
    """Whatever library an array is of, the kernel's type is the same."""
    assert c_type("torch.bfloat16") == c_type("bfloat16") == "bf16"
    assert c_type(np.dtype(np.int64)) == "long long"


def test_scalars_have_the_size_of_the_kernels_parameters() -> None:
    """And a number that does not fit is an error, not another number."""
    assert (int32(3).nbytes, float32(0.5).nbytes) == (4, 4)
    with pytest.raises(OverflowError):
        int32(2**31)


def test_a_grid_beyond_a_device_is_refused() -> None:
    """With the size and the limit."""
    with pytest.raises(ValueError, match="expected 1 to 65535 where 70000 is"):
        grid(1, 70000)


def test_two_kernels_cannot_share_a_name() -> None:
    """The second would hide the first."""
    one = registry.kernel("silu_mul")

    with pytest.raises(ValueError, match="share a name"):
        by_name([one, one])
