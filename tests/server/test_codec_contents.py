"""Typed contents become arrays of exactly their values, or are refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.codec_strategies import RAW_ONLY, TYPED, field, message, same, tensors

from penstock.codec.decode import decode_request
from penstock.codec.encode import encode_response
from penstock_protos.inference import InferTensorContents, ModelInferRequest, ModelInferResponse
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.request import InferResponse
from penstock_runtime.tensor import Tensor

Input = ModelInferRequest.InferInputTensor
FIELDS = {
    "bool_contents": (DataType.BOOL,),
    "int_contents": (DataType.INT8, DataType.INT16, DataType.INT32),
    "int64_contents": (DataType.INT64,),
    "uint_contents": (DataType.UINT8, DataType.UINT16, DataType.UINT32),
    "uint64_contents": (DataType.UINT64,),
    "fp32_contents": (DataType.FP32,),
    "fp64_contents": (DataType.FP64,),
    "bytes_contents": (DataType.BYTES,),
}
ITS_TYPE = {name: datatypes[-1] for name, datatypes in FIELDS.items()}
ONE = {name: [b"1"] if name == "bytes_contents" else [1] for name in FIELDS}


def typed(datatype: str, shape: list[int], **fields: Any) -> bytes:
    """A request whose only input has these contents."""
    contents = InferTensorContents(**fields)
    tensor = Input(name="x", datatype=datatype, shape=shape, contents=contents)
    return message(inputs=[tensor], raw_input_contents=[]).SerializeToString()


def refusal(data: bytes) -> str:
    """The text with which the request is refused."""
    with pytest.raises(InvalidArgument) as caught:
        decode_request(data, 0)
    return caught.value.message


def python_values(tensor: Tensor) -> list[Any]:
    """The elements as protobuf takes them."""
    values: list[Any] = tensor.numpy().ravel().tolist()
    return values


@given(tensors(TYPED))
def test_contents_become_a_flat_array_of_their_values(tensor: Tensor) -> None:
    """Every datatype, any shape, as protobuf's own serialiser writes it."""
    (name,) = (name for name, datatypes in FIELDS.items() if tensor.datatype in datatypes)
    data = typed(tensor.datatype.value, list(tensor.shape), **{name: python_values(tensor)})

    (decoded,) = decode_request(data, 0).inputs

    assert decoded.array.ndim == 1
    assert decoded.array.dtype == tensor.datatype.numpy
    shaped = Tensor("x", tensor.datatype, tensor.shape, decoded.array.reshape(tensor.shape))
    assert same(shaped, Tensor("x", tensor.datatype, tensor.shape, tensor.array), bits=False)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("datatype", DataType)
def test_field_must_be_that_of_the_datatype(name: str, datatype: DataType) -> None:
    """Contents in another field are refused; FP16 and BF16 have none at all."""
    data = typed(datatype.value, [1], **{name: ONE[name]})

    if datatype in FIELDS[name]:
        assert decode_request(data, 0).inputs[0].array.tolist() == ONE[name]
    else:
        assert refusal(data) == (
            "unexpected explicit tensor data for input tensor 'x' for model 'm' of type "
            f"'{ITS_TYPE[name].value}', expected datatype '{datatype.value}'"
        )


def test_second_field_is_refused() -> None:
    """Contents in two fields are refused, whichever comes first on the wire."""
    data = typed("FP64", [1], int_contents=[1], fp64_contents=[1.0])

    assert "of type 'INT32', expected datatype 'FP64'" in refusal(data)


@pytest.mark.parametrize("datatype", [dt for dt in DataType if dt not in RAW_ONLY])
def test_empty_contents_are_the_data_of_an_empty_shape(datatype: DataType) -> None:
    """Nothing is enough for a shape with a zero, and for no other."""
    (decoded,) = decode_request(typed(datatype.value, [2, 0]), 0).inputs

    assert decoded.array.shape == (0,)
    assert decoded.array.dtype == datatype.numpy
    assert "unable to find data for input tensor 'x'" in refusal(typed(datatype.value, [2]))


NARROW = [DataType.INT8, DataType.INT16, DataType.UINT8, DataType.UINT16]


@pytest.mark.parametrize("datatype", NARROW)
def test_narrow_integers_are_never_wrapped(datatype: DataType) -> None:
    """The bounds of a narrow type are accepted, the values beyond them refused by number."""
    bounds = np.iinfo(datatype.numpy)
    name = "int_contents" if bounds.min else "uint_contents"
    edges = [int(bounds.min), int(bounds.max)]

    (decoded,) = decode_request(typed(datatype.value, [2], **{name: edges}), 0).inputs

    assert decoded.array.tolist() == edges
    for value in (bounds.max + 1, *([bounds.min - 1] if bounds.min else [])):
        text = refusal(typed(datatype.value, [2], **{name: [0, int(value)]}))
        assert text == (
            f"value {value} of input tensor 'x' for model 'm' is out of range, expected "
            f"{bounds.min} to {bounds.max} for datatype '{datatype.value}'"
        )


@given(st.integers(0, 40), st.integers(0, 40))
def test_count_is_left_to_the_engine(held: int, claimed: int) -> None:
    """A few elements too many or too few reach the engine, which has the text for it."""
    data = typed("INT32", [claimed], int_contents=list(range(held)))

    if held or not claimed:
        assert decode_request(data, 0).inputs[0].array.size == held


def test_unpacked_and_split_contents_are_one() -> None:
    """Numbers that are not packed, and contents in two pieces, are read as protobuf reads them."""
    unpacked, packed = b"\x35\x00\x00\x80\x3f", field(6, bytes(4))
    body = field(1, b"x") + field(2, b"FP32") + field(3, b"\x02")
    data = field(1, b"m") + field(5, body + field(5, unpacked) + field(5, packed))

    assert decode_request(data, 0).inputs[0].array.tolist() == [1.0, 0.0]


@given(tensors(TYPED))
def test_written_contents_are_those_of_protobuf(tensor: Tensor) -> None:
    """Typed outputs parse to the values that protobuf itself would have written."""
    data = encode_response(InferResponse("m", "1", outputs=(tensor,)), typed=True)

    parsed = ModelInferResponse.FromString(data)

    (name,) = (name for name, datatypes in FIELDS.items() if tensor.datatype in datatypes)
    expected = InferTensorContents(**{name: python_values(tensor)})
    assert repr(parsed.outputs[0].contents) == repr(expected)
    assert parsed.outputs[0].HasField("contents")
    assert len(parsed.raw_output_contents) == 0


@pytest.mark.parametrize("typed_form", [False, True])
@pytest.mark.parametrize("datatype", [DataType.FP32, DataType.INT8, DataType.BYTES])
def test_array_must_fill_its_shape(datatype: DataType, typed_form: bool) -> None:
    """An output whose array is not of its shape is the server's fault, and never sent."""
    values = np.array([b"a", b"b", b"c"]) if datatype is DataType.BYTES else np.arange(3)
    tensor = Tensor("y", datatype, (2,), values.astype(datatype.numpy))

    with pytest.raises(Internal, match=r"holds .* expected"):
        encode_response(InferResponse("m", "1", outputs=(tensor,)), typed=typed_form)
