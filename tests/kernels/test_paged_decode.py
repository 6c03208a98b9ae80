"""Laws of the two forms of paged attention: which serves what, and that they say the same."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import CACHE, ORDERS, needs_compiler
from tests.kernels.law import BF16, F16, F32, Arguments, near, normal
from tests.kernels.laws_cache import FP8, INT8
from tests.kernels.laws_decode import paged

from penstock_kernels import registry
from penstock_kernels.decode_form import decode_form
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.forms import AUTO, MMA, SCALAR

KERNEL = registry.kernel("paged_decode")


def call(
    stored: Any, dtype: Any = F16, dim: int = 128, group: int = 4, lengths: Any = (70, 0, 23)
) -> Arguments:
    """Rows over two heads of a cache, in two splits, with sinks."""
    random = np.random.default_rng(dim + group)
    cached = paged(random, list(lengths), 16, (2, dim), stored)
    q = normal(random, (len(lengths), 2 * group, dim), dtype)
    return {
        "q": q,
        **cached,
        "sinks": random.uniform(-1, 1, q.shape[1]).astype(F32),
        "partial": np.full((*q.shape[:2], 2, dim + 2), np.nan, F32),
        "out": np.zeros_like(q),
        "scale": dim**-0.5,
        "softcap": 0.0,
        "window": 0,
    }


def answer(arguments: Arguments, form: str, order: int = 0) -> Arguments:
    """What a form leaves, of copies of the outputs."""
    own = {name: arguments[name].copy() for name in ("partial", "out")}
    Emulated(CACHE, order).run(KERNEL, {**arguments, **own, "form": form})
    return own


def planned(arguments: Arguments) -> str:
    return KERNEL.launches(arguments)[0].instance


SERVED = [
    (F16, F16, 128, 4, "decode_mma<f16, f16, 128, 4>"),
    (BF16, BF16, 256, 1, "decode_mma<bf16, bf16, 256, 4>"),
    (BF16, INT8, 64, 8, "decode_mma<bf16, signed char, 64, 4>"),
    (F16, FP8, 128, 12, "decode_mma<f16, e4m3, 128, 4>"),
    (BF16, BF16, 96, 4, "decode_mma<bf16, bf16, 96, 4>"),
    (F16, INT8, 96, 4, "decode_split<f16, signed char, 128, 4, 4>"),
    (BF16, FP8, 80, 1, "decode_split<bf16, e4m3, 128, 4, 4>"),
]


@pytest.mark.parametrize(("dtype", "stored", "dim", "group", "instance"), SERVED)
def test_the_tensor_cores_serve_the_heads_that_they_fit(
    dtype: Any, stored: Any, dim: int, group: int, instance: str
) -> None:
    """All others are the scalar form's."""
    assert planned(call(stored, dtype, dim, group)) == instance


def test_a_choice_says_why() -> None:
    """With the number that decided it."""
    assert decode_form(128, 4, 2, 1000).form == MMA
    assert "4 query heads for each of 16 bits" in decode_form(128, 4, 2, 1000).why
    assert decode_form(96, 4, 1, 1000).form == SCALAR
    assert "dimension 96, expected one of 64, 128, 256" in decode_form(96, 4, 1, 1000).why
    assert decode_form(128, 4, 2, 2**31).form == SCALAR
    assert "expected fewer than 2147483648" in decode_form(128, 4, 2, 2**31).why


def test_a_form_that_is_asked_for_serves_or_is_refused() -> None:
    """Who measures forms is never given another one."""
    arguments = call(F16)

    assert planned({**arguments, "form": SCALAR}) == "decode_split<f16, f16, 128, 4, 4>"
    assert planned({**arguments, "form": AUTO}) == planned({**arguments, "form": MMA})
    with pytest.raises(ValueError, match="dimension 80, expected one of 64, 96, 128, 256 by the"):
        planned({**call(F16, dim=80), "form": MMA})
    with pytest.raises(ValueError, match="form 'tensor', expected one of auto, scalar, mma"):
        planned({**arguments, "form": "tensor"})


def test_a_cache_of_more_heads_than_an_int_counts_is_the_scalar_forms() -> None:
    """Its places are 64 bits wide."""
    huge = SimpleNamespace(shape=(2**30, 2, 128), dtype=np.dtype(F16))

    assert planned({**call(F16), "k_cache": huge}).startswith("decode_split")


ALIKE = [
    (F16, F16, 64, 5, 0.0, 0),
    (BF16, BF16, 256, 2, 0.0, 50),
    (F16, F16, 96, 8, 0.0, 0),
    (F16, INT8, 256, 3, 2.0, 0),
    (BF16, FP8, 64, 9, 0.0, 9),
    (BF16, INT8, 128, 8, 0.0, 0),
]


@needs_compiler
@pytest.mark.parametrize(("dtype", "stored", "dim", "group", "softcap", "window"), ALIKE)
def test_both_forms_leave_the_same_for_each_split(
    dtype: Any, stored: Any, dim: int, group: int, softcap: float, window: int
) -> None:
    """Sums, maxima and weights, so that either may be merged; and so the same answers."""
    arguments = call(stored, dtype, dim, group) | {"softcap": softcap, "window": window}

    scalar, mma = answer(arguments, SCALAR), answer(arguments, MMA)

    some = scalar["partial"][..., dim + 1] > 0
    assert (some == (mma["partial"][..., dim + 1] > 0)).all()
    for one, other in zip(scalar["partial"][some], mma["partial"][some], strict=True):
        near(other[:dim], one[:dim], dtype)
        np.testing.assert_allclose(other[dim:], one[dim:], rtol=4e-3 if dtype == BF16 else 1e-3)
    near(mma["out"], scalar["out"].astype(float), dtype)


@needs_compiler
@pytest.mark.parametrize("stored", [INT8, FP8])
def test_all_numbers_of_eight_bits_are_read_exactly(stored: Any) -> None:
    """Each as a value, of a text of one token; and each as a key, by a query of a single one."""
    numbers = np.arange(256, dtype=np.uint8)
    numbers[[127, 255]] = 1  # no numbers, of e4m3
    arguments = call(stored, dim=256, group=16, lengths=[1] * 8) | {"sinks": None, "scale": 1.0}
    arguments["q"][:] = 0
    for dim in range(256):
        arguments["q"][dim // 32, dim % 32, dim] = 1
    for name in ("k", "v"):
        arguments[f"{name}_cache"][:] = numbers.view(stored)
        arguments[f"{name}_scale"][:] = 1

    found = answer(arguments, MMA)

    exact = numbers.view(stored).astype(F32)
    np.testing.assert_array_equal(found["out"], np.broadcast_to(exact, found["out"].shape))
    np.testing.assert_array_equal(found["partial"][:, :, 0, 256].reshape(-1), exact)


@needs_compiler
@pytest.mark.parametrize("form", [SCALAR, MMA])
def test_values_of_scale_0_are_0_and_of_none_are_none(form: str) -> None:
    """A page of zeros has scales of 0, which have no logarithm; what is NaN is not hidden."""
    arguments = call(FP8, lengths=[1, 70, 40]) | {"sinks": None}
    slots = [arguments["table"][row, 0] * 16 for row in range(3)]
    arguments["v_scale"][slots[0]] = 0
    arguments["v_scale"][arguments["table"][1, :5, None] * 16 + np.arange(16)] = 0
    arguments["v_scale"][slots[2]] = np.nan

    found = answer(arguments, form)["out"]

    assert (found[:2] == 0).all()
    assert np.isnan(found[2]).all()


@needs_compiler
@pytest.mark.parametrize("dtype", [F16, BF16])
def test_values_that_are_alike_come_out_as_they_are(dtype: Any) -> None:
    """Weights are rounded to 16 bits, and counted as they were rounded: no more than sums of floats
    are off.
    """
    arguments = call(dtype, dtype) | {"sinks": None}
    same = normal(np.random.default_rng(1), 128, dtype)
    arguments["v_cache"][:] = same

    found = answer(arguments, MMA)

    sums, weight = found["partial"][0, :, :, :128], found["partial"][0, :, :, 129:]
    exact = np.broadcast_to(same.astype(F32), sums.shape)
    np.testing.assert_allclose(sums / weight, exact, rtol=2e-6)
    np.testing.assert_array_equal(found["out"][0], np.broadcast_to(same, (8, 128)))


@needs_compiler
@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_queries_of_any_size_meet_keys_of_eight_bits(dtype: Any, size: float) -> None:
    """Those of bf16 have a range that f16 has not, by which they are multiplied."""
    large = size**2 if dtype == BF16 else size
    arguments = call(FP8, dtype, lengths=[40]) | {"scale": 1 / large}
    arguments["q"] = (arguments["q"].astype(F32) * large).astype(dtype)

    scalar, mma = answer(arguments, SCALAR), answer(arguments, MMA)

    near(mma["out"], scalar["out"].astype(float), dtype)


@needs_compiler
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", [SCALAR, MMA])
def test_pages_behind_the_last_token_are_not_looked_up(form: str, order: int) -> None:
    """What is read ahead stays within the text: entries without a page may hold anything."""
    arguments = call(INT8, dim=64, lengths=[70, 0, 16])
    right = answer(arguments, form)["out"]
    for row, length in enumerate([70, 0, 16]):
        arguments["table"][row, -(-length // 16) :] = 2**24

    found = answer(arguments, form, order)["out"]

    assert found.tobytes() == right.tobytes()
