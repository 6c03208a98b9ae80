"""Layers of quantised weights: the kernel and torch agree with what the weights stand for."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm import quantised_kernel
from penstock_runtime.llm.cpu_build import NotBuilt
from penstock_runtime.llm.quantised_kernel import QuantisedKernel, load_kernel
from penstock_runtime.llm.quantised_linear import QuantisedLinear, join
from penstock_runtime.llm.quantised_weight import quantise_weight


def _layer(
    bits: int, inputs: int, outputs: int, bias: bool = False, kernel: QuantisedKernel | None = None
) -> QuantisedLinear:
    generator = torch.Generator().manual_seed(inputs + outputs)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.05
    added = torch.randn(outputs, generator=generator) if bias else None
    return QuantisedLinear(quantise_weight(weight, bits), added, kernel)


def _rows(count: int, inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(count)).to(dtype)


def _expected(layer: QuantisedLinear, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x.float(), layer.quantised.dequantise(), layer.bias)


@pytest.fixture
def kernel() -> QuantisedKernel:
    found = load_kernel()
    if found is None:
        pytest.skip("the kernel cannot be built here")
    return found


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 6), (96, 40), (128, 64), (2048, 300)])
def test_torch_computes_what_the_weight_stands_for(bits: int, inputs: int, outputs: int) -> None:
    layer = _layer(bits, inputs, outputs, bias=True)
    x = _rows(5, inputs, torch.float32)

    assert torch.allclose(layer(x), _expected(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 6), (96, 40), (704, 36)])
def test_torch_does_so_in_bf16_for_few_and_many_rows(bits: int, inputs: int, outputs: int) -> None:
    layer = _layer(bits, inputs, outputs, bias=True)

    for count in (0, 1, 24, 25):
        x = _rows(count, inputs, torch.bfloat16)
        expected = _expected(layer, x)
        error = (layer(x).float() - expected).norm()
        assert error <= 0.01 * expected.norm(), count


# Rows of x: the direct ones, a whole block of the micro kernel and each remainder. Outputs: less
# than a block of W, one, and a remainder. Inputs: less than a piece, and a remainder after one.
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 4), (128, 16), (704, 36)])
def test_the_kernel_computes_what_torch_does(
    kernel: QuantisedKernel, bits: int, inputs: int, outputs: int
) -> None:
    layer = _layer(bits, inputs, outputs, bias=True, kernel=kernel)
    assert layer.kernel is kernel

    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 40):
        x = _rows(count, inputs, torch.bfloat16)
        expected = _expected(layer, x)
        error = (layer(x).float() - expected).abs().max() / expected.abs().max()
        assert error < 0.006, count


@pytest.mark.parametrize("count", [1, 9])
def test_threads_change_no_bit(kernel: QuantisedKernel, two_threads: None, count: int) -> None:
    layer = _layer(4, 256, 72, kernel=kernel)
    x = _rows(count, 256, torch.bfloat16)
    both = layer(x)

    torch.set_num_threads(1)

    assert torch.equal(layer(x), both)


def test_a_row_is_the_same_in_any_batch(kernel: QuantisedKernel) -> None:
    layer = _layer(8, 256, 64, kernel=kernel)
    x = _rows(17, 256, torch.bfloat16)

    assert torch.equal(layer(x)[5:9], layer(x[5:9]))


def test_a_form_that_the_kernel_does_not_know_is_left_to_torch(kernel: QuantisedKernel) -> None:
    narrow, odd = _layer(4, 96, 64, kernel=kernel), _layer(8, 64, 6, kernel=kernel)
    x = _rows(3, 96, torch.bfloat16)

    assert narrow.kernel is None
    assert odd.kernel is None
    error = (narrow(x).float() - _expected(narrow, x)).abs().max()
    assert error < 0.02 * _expected(narrow, x).abs().max()


def test_leading_dimensions_and_strides_are_those_of_a_linear(kernel: QuantisedKernel) -> None:
    layer = _layer(8, 64, 16, kernel=kernel)
    x = _rows(6, 128, torch.bfloat16)[:, :64].view(2, 3, 64)

    assert layer(x).shape == (2, 3, 16)
    assert torch.equal(layer(x).view(6, 16), layer(x.reshape(6, 64)))
    assert layer(x[:0]).shape == (0, 3, 16)


def test_another_dtype_of_the_model_leaves_the_scales() -> None:
    layer = _layer(4, 128, 16, bias=True)
    before = layer.quantised.dequantise()

    layer.to(torch.bfloat16)

    assert layer.scales.dtype == torch.float32
    assert torch.equal(layer.quantised.dequantise(), before)


def test_fused_layers_give_what_the_parts_give() -> None:
    one, other = _layer(4, 128, 24, bias=True), _layer(4, 128, 40)
    x = _rows(3, 128, torch.float32)

    fused = join([one, other])

    assert torch.allclose(fused(x), torch.cat([one(x), other(x)], -1), atol=1e-6)
    with pytest.raises(InvalidArgument, match="different kinds"):
        join([one, _layer(8, 128, 24)])


def test_a_kernel_that_is_required_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise NotBuilt("there is no C++ compiler")

    monkeypatch.setattr(quantised_kernel, "built_library", broken)
    quantised_kernel._kernel.cache_clear()
    try:
        assert load_kernel("auto") is None
        assert load_kernel("off") is None
        with pytest.raises(FailedPrecondition, match="no C\\+\\+ compiler"):
            load_kernel("require")
    finally:
        quantised_kernel._kernel.cache_clear()
