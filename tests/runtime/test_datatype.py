"""Laws of the one dtype table and of tensors in wire form."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock_runtime import datatype
from penstock_runtime.datatype import DataType, bf16_to_float32, float32_to_bf16
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.tensor import (
    BytesFormatError,
    Tensor,
    materialize,
    pack_bytes,
    raw_bytes,
    tensor,
    unpack_bytes,
)

NUMERIC = [dt for dt in DataType if dt not in (DataType.BYTES, DataType.BF16)]


@pytest.mark.parametrize("kind", list(DataType))
def test_every_datatype_has_one_name_on_each_side(kind: DataType) -> None:
    """Wire and configuration names lead back to the datatype; sizes are numpy's."""
    assert datatype.from_wire(kind.value) is kind
    assert datatype.from_config(kind.config_name) is kind
    assert kind.size == (0 if kind is DataType.BYTES else kind.numpy.itemsize)


@pytest.mark.parametrize("kind", NUMERIC)
def test_a_numpy_dtype_leads_back_to_its_datatype(kind: DataType) -> None:
    """numpy arrays say what they are without being told."""
    assert datatype.from_numpy(kind.numpy) is kind


@pytest.mark.parametrize("name", ["FP8", "", "fp32", "X" * 1_000_000])
def test_an_unknown_datatype_is_refused_briefly(name: str) -> None:
    """The error names the text, cut short, and what was expected."""
    with pytest.raises(InvalidArgument) as refused:
        datatype.from_wire(name)

    assert len(refused.value.message) < 300


@given(npst.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_bf16_rounds_as_ml_dtypes_does(values: np.ndarray) -> None:
    """Rounding to nearest even, infinities and NaN agree with the reference implementation."""
    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)

    widened = bf16_to_float32(float32_to_bf16(values))

    np.testing.assert_array_equal(widened, expected)


@given(st.data(), st.sampled_from(NUMERIC), npst.array_shapes(min_dims=0, max_dims=4, min_side=0))
def test_wire_bytes_of_a_tensor_lead_back_to_it(
    data: st.DataObject, kind: DataType, shape: tuple[int, ...]
) -> None:
    """raw_bytes and materialize are inverse for every datatype and any shape."""
    array = data.draw(npst.arrays(kind.numpy, shape))
    sent = Tensor("x", kind, shape, array)

    came = materialize(Tensor("x", kind, shape, memoryview(bytes(raw_bytes(sent)))))

    assert came.array.tobytes() == array.tobytes()
    assert came.array.shape == shape


@given(npst.arrays(object, npst.array_shapes(min_dims=0, max_dims=3), elements=st.binary()))
def test_strings_lead_back_to_themselves(array: np.ndarray) -> None:
    """Any bytes, NULs included, survive their length-prefixed form."""
    packed = pack_bytes(array)

    assert unpack_bytes(packed, array.size).tolist() == array.reshape(-1).tolist()


@given(st.binary(max_size=64), st.integers(0, 2**40))
def test_malformed_strings_are_refused_without_believing_their_lengths(
    data: bytes, count: int
) -> None:
    """Arbitrary bytes hold exactly the elements, or raise; a claim allocates nothing."""
    found, again = len(data) // 4, data
    try:
        again = pack_bytes(unpack_bytes(data, count))
    except BytesFormatError as error:
        found = error.found

    assert found <= len(data) // 4
    assert again == data


def test_strided_arrays_are_sent_in_row_major_order() -> None:
    """A transposed array goes out as its elements read, not as they lie in memory."""
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T

    sent = raw_bytes(tensor("x", array))

    assert bytes(sent) == array.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_in_a_bf16_tensor_are_sent_as_bf16(dtype: type) -> None:
    """Whatever holds the values, the wire has their upper halves and not their integers."""
    sent = raw_bytes(Tensor("x", DataType.BF16, (2,), np.array([1.5, -2.0], dtype)))

    assert bf16_to_float32(np.frombuffer(sent, np.uint16)).tolist() == [1.5, -2.0]
