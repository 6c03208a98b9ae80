"""Weights as int8 and int4: the layout of the kernels, and how near they come."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_kernels.quantise import DEQUANTISE, QUANTISE
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.quantised_weight import concatenate, group_for, quantise_weight


def _weight(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator) * 0.02


def test_int8_is_what_the_kernels_make() -> None:
    weight = _weight(24, 80)
    packed, scale = np.empty((24, 80), np.uint8), np.empty(24, np.float32)
    QUANTISE.reference(weight.numpy(), packed, scale, 8)

    ours = quantise_weight(weight, 8)

    assert np.array_equal(ours.data.numpy(), packed)
    assert np.array_equal(ours.scales[:, 0].numpy(), scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_kernels_read_what_we_store(bits: int) -> None:
    ours = quantise_weight(_weight(12, 256), bits)
    groups = ours.scales.numel()
    out = np.empty((groups, ours.group), np.float32)

    DEQUANTISE.reference(
        ours.data.numpy().reshape(groups, -1), ours.scales.numpy().reshape(-1), out, bits
    )

    assert np.array_equal(out.reshape(12, 256), ours.dequantise().numpy())


@settings(max_examples=20, deadline=None)
@given(
    outputs=st.integers(1, 40), groups=st.integers(1, 4), bits=st.sampled_from([8, 4]),
    seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_no_weight_is_further_from_its_number_than_its_scale_allows(
    outputs: int, groups: int, bits: int, seed: int
) -> None:
    weight = _weight(outputs, 32 * groups, seed)

    ours = quantise_weight(weight, bits)

    error = (ours.dequantise() - weight).abs()
    # Int4 may clip the greatest, by a third at most; all others are rounded.
    highest = weight.view(-1, ours.group).abs().amax(1, keepdim=True)
    assert bool((error.view(-1, ours.group) <= highest / (254 if bits == 8 else 3) + 1e-7).all())


def test_int4_is_nearer_than_a_plain_scale_and_than_a_zero_point() -> None:
    weight = _weight(64, 512)
    groups = weight.view(-1, 128)
    packed, scale = np.empty((256, 64), np.uint8), np.empty(256, np.float32)
    plain = np.empty((256, 128), np.float32)
    QUANTISE.reference(groups.numpy(), packed, scale, 4)
    DEQUANTISE.reference(packed, scale, plain, 4)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = (high - low) / 15
    zero_point = ((groups - low) / step).round() * step + low

    ours = quantise_weight(weight, 4).dequantise().view(-1, 128)

    error = (ours - groups).norm()
    assert error < 0.85 * (torch.from_numpy(plain) - groups).norm()
    assert error < (zero_point - groups).norm()


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_stay_zeros(bits: int) -> None:
    weight = _weight(8, 64)
    weight[3] = 0

    ours = quantise_weight(weight, bits).dequantise()

    assert not ours[3].any()
    assert bool(ours.isfinite().all())


@pytest.mark.parametrize("bits", [8, 4])
def test_the_rows_of_several_weights_are_quantised_as_those_of_one(bits: int) -> None:
    one, other = _weight(8, 128, 1), _weight(24, 128, 2)

    joined = concatenate([quantise_weight(one, bits), quantise_weight(other, bits)])

    whole = quantise_weight(torch.cat([one, other]), bits)
    assert torch.equal(joined.data, whole.data)
    assert torch.equal(joined.scales, whole.scales)


def test_weights_of_different_kinds_cannot_be_one() -> None:
    with pytest.raises(InvalidArgument, match="different kinds"):
        concatenate([quantise_weight(_weight(8, 128), 8), quantise_weight(_weight(8, 128), 4)])


def test_a_group_divides_the_inputs() -> None:
    assert [group_for(inputs) for inputs in (512, 256, 192, 96, 80)] == [128, 64, 64, 32, 0]
    assert group_for(512, 64) == 64
    with pytest.raises(InvalidArgument, match="8x80 cannot be int4"):
        quantise_weight(_weight(8, 80), 4)


def test_a_quarter_or_half_of_bf16_remains() -> None:
    weight = _weight(256, 512).bfloat16()

    assert quantise_weight(weight, 8).nbytes == weight.nbytes // 2 + 256 * 4
    assert quantise_weight(weight, 4).nbytes == weight.nbytes // 4 + 256 * 4 * 4
