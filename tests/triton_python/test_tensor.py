"""Tensors as models see them: numpy and DLPack, every datatype, never a copy."""

from typing import Any

import numpy as np
import pytest
import triton_python_backend_utils as pb_utils
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from penstock_runtime.backends.triton_python.tensor import array_of, foreign
from penstock_runtime.datatype import DataType, bf16_to_float32, float32_to_bf16, from_numpy

NUMBERS = [dt for dt in DataType if dt not in (DataType.BYTES, DataType.BF16)]
ARRAYS = st.sampled_from(NUMBERS).flatmap(
    lambda datatype: nps.arrays(
        datatype.numpy, nps.array_shapes(min_dims=0, min_side=0, max_side=4)
    )
)


@given(ARRAYS, st.booleans())
def test_an_array_comes_back_from_dlpack_as_it_went(array: Any, transposed: bool) -> None:
    """Any datatype and shape, contiguous or not, writable or not."""
    array = array.T if transposed else array
    tensor = foreign("x", DataType(pb_name(array)), array)

    back = pb_utils.Tensor.from_dlpack("y", tensor.to_dlpack())

    assert back.name() == "y"
    assert back.shape() == list(array.shape)
    assert back.triton_dtype() == tensor.triton_dtype()
    assert np.array_equal(back.as_numpy(), array, equal_nan=array.dtype.kind == "f")


def pb_name(array: Any) -> str:
    """The datatype's name."""
    return from_numpy(array.dtype).value


def test_no_memory_is_copied_on_the_way() -> None:
    """An array, its tensor, the capsule and what is made of that share their memory."""
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32)
    tensor = pb_utils.Tensor("x", array)

    seen = torch.from_dlpack(tensor)
    again = pb_utils.Tensor.from_dlpack("y", seen)

    assert tensor.as_numpy() is array
    assert seen.data_ptr() == array.__array_interface__["data"][0]
    assert np.shares_memory(again.as_numpy(), array)


def test_bfloat16_goes_through_torch_as_itself() -> None:
    """numpy has no such type: as_numpy() says so, DLPack carries it."""
    torch = pytest.importorskip("torch")
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)

    tensor = pb_utils.Tensor.from_dlpack("x", values)
    back = torch.from_dlpack(tensor)

    assert tensor.triton_dtype() == 14
    assert array_of(tensor).dtype == np.uint16
    assert np.array_equal(bf16_to_float32(array_of(tensor)), values.float().numpy())
    assert back.dtype is torch.bfloat16
    assert torch.equal(back, values)
    with pytest.raises(pb_utils.TritonModelException, match="use to_dlpack"):
        tensor.as_numpy()


def test_the_memory_of_a_capsule_lives_as_long_as_the_tensor() -> None:
    """Whoever made it may be gone."""
    torch = pytest.importorskip("torch")
    tensor = pb_utils.Tensor.from_dlpack("x", torch.utils.dlpack.to_dlpack(torch.arange(1000)))
    rubbish = [torch.zeros(1000, dtype=torch.int64) for _ in range(50)]

    assert tensor.as_numpy().tolist() == list(range(1000))
    assert len(rubbish) == 50


def test_the_inputs_of_a_request_are_read_only_unless_they_are_copied() -> None:
    """Models may write into what they asked to be copied, and into nothing else of others."""
    array = np.zeros(3, np.float32)

    lent = foreign("x", DataType.FP32, array).as_numpy()
    copied = foreign("x", DataType.FP32, array, copies=True)
    copied.as_numpy()[0] = 7

    assert np.shares_memory(lent, array)
    assert not lent.flags.writeable
    assert copied.as_numpy()[0] == 7
    assert array.flags.writeable
    assert not array.any()


def test_read_only_memory_goes_through_dlpack_too() -> None:
    """As the message of a request is read-only, which nobody else has."""
    torch = pytest.importorskip("torch")
    array = np.frombuffer(b"\x01\x02\x03\x04", np.uint8)

    found = torch.from_dlpack(foreign("x", DataType.UINT8, array, alone=True))

    assert found.tolist() == [1, 2, 3, 4]
    assert found.data_ptr() == array.__array_interface__["data"][0]


@pytest.mark.parametrize("alone", [False, True])
def test_what_others_have_too_goes_through_dlpack_as_a_copy(alone: bool) -> None:
    """Whoever reads a capsule may write; afterwards the tensor is what was written."""
    torch = pytest.importorskip("torch")
    array = np.zeros(2, np.float32)
    tensor = foreign("x", DataType.FP32, array, alone=alone)
    seen = tensor.as_numpy()

    torch.from_dlpack(tensor).add_(1)

    assert not array.any()
    assert not seen.any()
    assert tensor.as_numpy().tolist() == [1.0, 1.0]


def test_a_tensor_of_a_tensor_is_as_read_only_as_that() -> None:
    """It is another name for the same memory."""
    array = np.zeros(2, np.float32)

    other = pb_utils.Tensor.from_dlpack("y", foreign("x", DataType.FP32, array))

    assert np.shares_memory(other.as_numpy(), array)
    assert not other.as_numpy().flags.writeable


class OnDevice:
    """Stands for an array in the memory of a GPU."""

    dtype = np.dtype(np.float32)
    shape = (2,)

    def __dlpack__(self, stream: object = None) -> tuple[str, object]:
        return ("capsule", stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 1)


def test_a_tensor_on_a_device_stays_there() -> None:
    """It is handed on as it is, and is no numpy array."""
    there = OnDevice()

    tensor = pb_utils.Tensor.from_dlpack("x", there)
    again = pb_utils.Tensor.from_dlpack("y", tensor)

    assert array_of(again) is there
    assert not tensor.is_cpu()
    assert tensor.__dlpack_device__() == (2, 1)
    assert tensor.__dlpack__(stream=7) == ("capsule", 7)
    with pytest.raises(pb_utils.TritonModelException, match="lies on a device"):
        tensor.as_numpy()


@pytest.mark.parametrize("wrong", [3, "text", object()])
def test_what_does_not_speak_dlpack_is_refused(wrong: object) -> None:
    """By what it is."""
    with pytest.raises(pb_utils.TritonModelException, match="expected a DLPack capsule"):
        pb_utils.Tensor.from_dlpack("x", wrong)


def test_a_consumed_capsule_is_refused() -> None:
    """Its memory belongs to somebody else by now."""
    torch = pytest.importorskip("torch")
    capsule = torch.utils.dlpack.to_dlpack(torch.zeros(2))
    torch.utils.dlpack.from_dlpack(capsule)

    with pytest.raises(pb_utils.TritonModelException, match="expected a DLPack capsule"):
        pb_utils.Tensor.from_dlpack("x", capsule)


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "grün"]], dtype=np.object_),
        np.array([[b"a", "grün".encode()]], dtype=np.object_),
        np.array([["a", "grün"]]),
        np.array([[b"a", "grün".encode()]], dtype="S"),
    ],
)
def test_strings_travel_as_bytes_however_they_are_given(array: Any) -> None:
    """As text or bytes, in objects or of a fixed width."""
    tensor = pb_utils.Tensor("x", array)

    assert tensor.triton_dtype() == 13
    assert array_of(tensor).tolist() == [[b"a", "grün".encode()]]
    with pytest.raises(pb_utils.TritonModelException, match="holds strings"):
        tensor.to_dlpack()


def test_a_type_that_no_tensor_has_is_refused() -> None:
    """By its name."""
    with pytest.raises(pb_utils.TritonModelException, match="complex64"):
        pb_utils.Tensor("x", np.zeros(2, np.complex64))


def test_halves_of_bfloat16_arrive_as_they_were_sent() -> None:
    """The inputs of a request in BF16 are uint16 here, and bfloat16 for DLPack."""
    torch = pytest.importorskip("torch")
    halves = float32_to_bf16(np.array([1.0, 2.5], np.float32))

    found = torch.from_dlpack(foreign("x", DataType.BF16, halves))

    assert found.tolist() == [1.0, 2.5]
