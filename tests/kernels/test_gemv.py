"""Laws of products with quantised weights: which form multiplies what, and that rows are apart."""

from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import CACHE, needs_compiler
from tests.kernels.law import BF16, F16, F32, Arguments, near, normal

from penstock_kernels import registry
from penstock_kernels.declare import c_name
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.forms import AUTO, MMA, SCALAR
from penstock_kernels.gemv import gemv_form, most_rows

KERNEL = registry.kernel("gemv")


def call(
    bits: int, rows: int, dtype: Any = F16, inputs: int = 256, outputs: int = 40, group: int = 0
) -> Arguments:
    """Random numbers; of int4 in groups of 128, if no other is wanted."""
    random = np.random.default_rng(bits + inputs)
    groups = inputs // (group or (128 if bits == 4 else inputs))
    return {
        "x": normal(random, (64, inputs), dtype)[:rows],
        "data": random.integers(0, 256, (outputs, inputs * bits // 8)).astype(np.uint8),
        "scale": random.uniform(-0.1, 0.1, (outputs, groups)).astype(F32),
        "bias": None,
        "y": np.zeros((rows, outputs), dtype),
        "bits": bits,
    }


def answer(arguments: Arguments, form: str = AUTO) -> Any:
    y = np.full_like(arguments["y"], np.nan)
    Emulated(CACHE).run(KERNEL, {**arguments, "y": y, "form": form})
    return y


def planned(arguments: Arguments) -> Any:
    return KERNEL.launches(arguments)[0]


SERVED = [
    (call(8, 1), "gemv_mma<f16, 8, 8>"),
    (call(4, 33, BF16), "gemv_mma<bf16, 4, 64>"),
    (call(8, 5, inputs=96), "gemv<f16, 8, 8>"),
    (call(4, 2, group=64), "gemv<f16, 4, 2>"),
    (call(8, 2, group=64), "gemv<f16, 8, 2>"),
]


@pytest.mark.parametrize(("arguments", "instance"), SERVED)
def test_tensor_cores_multiply_weights_in_whole_chunks(arguments: Any, instance: str) -> None:
    """Any number of rows; all others are the scalar form's, a few rows at a time."""
    assert planned(arguments).instance == instance


def test_a_choice_says_why_and_how_many_rows_it_takes() -> None:
    """With the number that decided it."""
    assert gemv_form(4096, 4096, 8).form == gemv_form(4096, 128, 4).form == MMA
    assert "groups of 64 inputs, expected a multiple of 128" in gemv_form(256, 64, 4).why
    assert "groups of 64 of 256 inputs of int8, expected one group" in gemv_form(256, 64, 8).why
    assert most_rows(4096, 128, 4) == 64
    assert most_rows(4096, 64, 4) == 8
    with pytest.raises(ValueError, match="65 rows, expected 64 at most"):
        planned(call(8, 64) | {"x": np.zeros((65, 256), F16)})
    with pytest.raises(ValueError, match="9 rows, expected 8 at most"):
        planned(call(8, 9) | {"form": SCALAR})
    with pytest.raises(ValueError, match="multiple of 128 by the form mma"):
        planned(call(4, 9, group=64) | {"form": MMA})


@pytest.mark.parametrize(("outputs", "parts"), [(28672, 1), (8192, 2), (4096, 4), (7, 4)])
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("bits", [8, 4])
def test_warps_share_outputs_where_there_are_few(
    bits: int, rows: int, outputs: int, parts: int
) -> None:
    """And as many for one row as for many; the grid covers all outputs."""
    launch = planned(call(bits, rows, outputs=outputs, inputs=128))

    assert launch.arguments[-1] == parts
    tall = 16 if bits == 4 and rows > 32 else 32
    assert launch.grid[0] == -(-outputs // (tall * 4 // parts))


@needs_compiler
@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("bits", [8, 4])
def test_all_integers_are_unpacked_exactly(bits: int, dtype: Any) -> None:
    """Each by a row that takes it alone."""
    arguments = call(bits, 64, dtype, inputs=128, outputs=64)
    numbers = (np.arange(64)[:, None] * (256 // 64) + np.arange(arguments["data"].shape[1])) % 256
    arguments["data"][:] = numbers
    arguments["scale"][:] = 1
    wide = arguments["data"].astype(int)
    if bits == 4:
        wide = np.stack([wide % 16, wide // 16], -1).reshape(64, -1)
    exact = np.where(wide >= 2 ** (bits - 1), wide - 2**bits, wide)

    for half in (0, 64):
        arguments["x"][:] = np.eye(128)[half : half + 64]
        found = answer(arguments, MMA)
        np.testing.assert_array_equal(found.astype(float), exact[:, half : half + 64].T)


@needs_compiler
@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_rows_answer_is_the_same_beside_any_others(bits: int, dtype: Any) -> None:
    """To the byte, whichever instance computes it."""
    whole = answer(call(bits, 64, dtype))

    for rows in (1, 7, 16, 30):
        assert answer(call(bits, rows, dtype)).tobytes() == whole[:rows].tobytes()


@needs_compiler
@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize(("bits", "outputs"), [(8, 8200), (4, 8200), (8, 16400)])
def test_both_forms_multiply_alike_however_many_warps_share(
    bits: int, outputs: int, dtype: Any
) -> None:
    arguments = call(bits, 2, dtype, inputs=384, outputs=outputs)

    near(answer(arguments, MMA), answer(arguments, SCALAR).astype(float), dtype)
    assert c_name(arguments["y"]) in planned(arguments).instance
