"""Laws of the codec for tensors that lie in shared memory."""

# ruff: noqa: E501 - a row of the table is one line, however long the text of the error is

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.codec.decode import decode_request
from penstock.codec.encode import encode_message, encode_response, encode_stream_response
from penstock.codec.heavy import CONTENTS_LIMIT, PLACED_LIMIT, is_heavy, is_heavy_placed
from penstock_protos.inference import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported
from penstock_runtime.memory.places import Place, PlacedRequest, PlacedResponse, place_of
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.tensor import Tensor, tensor

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor


def said(region: str = "r", size: int | None = 8, offset: int | None = None) -> dict[str, Any]:
    """The parameters of a place."""
    found = {"shared_memory_region": InferParameter(string_param=region)}
    if size is not None:
        found["shared_memory_byte_size"] = InferParameter(int64_param=size)
    if offset is not None:
        found["shared_memory_offset"] = InferParameter(int64_param=offset)
    return found


def placed(name: str = "x", datatype: str = "FP32", **more: Any) -> Any:
    """An input of two elements in a region."""
    return Input(name=name, datatype=datatype, shape=[2], parameters=said(**more))


def message(*inputs: Any, raw: tuple[bytes, ...] = (), outputs: tuple[Any, ...] = ()) -> bytes:
    """A request to the model m."""
    return ModelInferRequest(
        model_name="m", inputs=inputs, outputs=outputs, raw_input_contents=raw
    ).SerializeToString()


def decode(data: bytes) -> InferRequest:
    """The request, by a server that shares memory."""
    return decode_request(data, 1, places=True)


def refusal(data: bytes) -> str:
    """Why it is refused, each time it comes."""
    with pytest.raises(InvalidArgument) as first:
        decode(data)
    with pytest.raises(InvalidArgument) as again:
        decode(data)
    assert first.value.message == again.value.message
    return first.value.message


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_place_is_what_the_parameters_say(size: int, offset: int) -> None:
    """Any numbers; the region is asked whether they fit."""
    data = message(placed(size=size, offset=offset), outputs=(Output(name="y", parameters=said()),))

    request = decode(data)

    assert isinstance(request, PlacedRequest)
    assert request.inputs[0] == Tensor("x", DataType.FP32, (2,), Place("r", size, offset))
    assert place_of(request.outputs[0]) == Place("r", 8)
    assert request.places() == [Place("r", size, offset), Place("r", 8)]


@pytest.mark.parametrize("again", [1, 2, 3])
def test_raw_entries_are_those_of_the_other_inputs_in_their_order(again: int) -> None:
    """One for each input that is not in a region, also for a kind of request that is remembered."""
    raw = [Input(name=name, datatype="FP32", shape=[2]) for name in "abc"]
    data = [
        message(
            raw[0], placed(), raw[1], placed("z", offset=8), raw[2], raw=(b"1" * 8, b"2" * 8, tail)
        )
        for tail in (b"3" * 8, b"4" * 8)
    ]

    for _ in range(again):
        found = [[bytes(t.array) if t.is_raw else t.array for t in decode(d).inputs] for d in data]

    for tail, arrays in zip((b"3" * 8, b"4" * 8), found, strict=True):
        assert arrays == [b"1" * 8, Place("r", 8), b"2" * 8, Place("r", 8, 8), tail]


def test_typed_contents_and_places_go_together() -> None:
    """As raw contents and places do."""
    typed = Input(
        name="a", datatype="INT32", shape=[2], contents=InferTensorContents(int_contents=[3, 4])
    )

    request = decode(message(placed(), typed))

    assert request.inputs[0].array == Place("r", 8)
    assert request.inputs[1].array.tolist() == [3, 4]


def test_a_request_without_places_is_an_ordinary_one() -> None:
    """It can become a template, and goes the quick way."""
    data = message(Input(name="a", datatype="FP32", shape=[2]), raw=(bytes(8),))

    requests = [decode(data) for _ in range(4)]

    assert {type(request) for request in requests} == {InferRequest}
    assert requests[3].likeness is not None


def test_a_request_with_places_never_becomes_a_template() -> None:
    """Its data is elsewhere: bytes that are equal are no equal requests."""
    data = message(
        Input(name="a", datatype="FP32", shape=[2]),
        raw=(bytes(8),),
        outputs=(Output(name="y", parameters=said()),),
    )

    requests = [decode(data) for _ in range(4)]

    assert all(type(request) is PlacedRequest for request in requests)
    assert all(request.likeness is None for request in requests)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "unable to find data for input tensor 'b' for model 'm' in request."),
        (2, "expected 1 raw_input_contents for model 'm', got 2"),
    ],
)
def test_the_number_of_raw_entries_is_that_of_the_other_inputs(count: int, text: str) -> None:
    """Before and after the kind of request is remembered."""
    other = Input(name="b", datatype="FP32", shape=[2])
    wrong = message(placed(), other, raw=(bytes(8),) * count)

    first = refusal(wrong)
    decode(message(placed(), other, raw=(bytes(8),)))

    assert first == refusal(wrong) == text


def test_raw_entries_for_an_input_in_a_region_are_too_many() -> None:
    """Also if there is no other input."""
    assert refusal(message(placed(), raw=(bytes(8),))) == (
        "expected 0 raw_input_contents for model 'm', got 1"
    )


def test_contents_beside_a_place_are_refused() -> None:
    """The data of an input is in one place."""
    both = placed()
    both.contents.fp32_contents.extend([1, 2])

    assert refusal(message(both)) == (
        "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'm'"
    )


WRONG = [
    (said(size=None), "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for {} tensor 'x'"),
    ({"shared_memory_byte_size": InferParameter(int64_param=1)}, "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for {} tensor 'x'"),
    ({"shared_memory_offset": InferParameter(int64_param=1)}, "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for {} tensor 'x'"),
    (said() | {"shared_memory_region": InferParameter(int64_param=1)}, "invalid value type for 'shared_memory_region' parameter, expected string_param."),
    (said() | {"shared_memory_byte_size": InferParameter(string_param="8")}, "invalid value type for 'shared_memory_byte_size' parameter, expected int64_param."),
    (said() | {"shared_memory_offset": InferParameter(double_param=8)}, "invalid value type for 'shared_memory_offset' parameter, expected int64_param."),
    (said() | {"shared_memory_offset": InferParameter()}, "invalid value type for 'shared_memory_offset' parameter, expected int64_param."),
    (said("r" * 1025), "'shared_memory_region' has 1025 characters, expected at most 1024 for {} tensor 'x'"),
]  # fmt: skip


@pytest.mark.parametrize("parameters", WRONG, ids=[text for _, text in WRONG])
@pytest.mark.parametrize("kind", ["input", "output"])
def test_parameters_of_a_place_are_whole_and_of_their_types(
    kind: str, parameters: tuple[dict[str, Any], str]
) -> None:
    """For inputs and outputs alike."""
    given, text = parameters
    if kind == "input":
        data = message(Input(name="x", datatype="FP32", shape=[2], parameters=given))
    else:
        data = message(outputs=(Output(name="x", parameters=given),))

    assert refusal(data) == text.format(kind)


def test_a_server_that_shares_none_refuses_what_another_remembers() -> None:
    """Two servers of one process have their own rules."""
    data = message(placed())
    decode(data)

    with pytest.raises(Unsupported):
        decode_request(data, 1)


def test_a_server_that_shares_none_tells_of_nothing_else_that_is_wrong_with_a_place() -> None:
    """Whatever is wrong with the use of a region, there is none."""
    with pytest.raises(Unsupported):
        decode_request(message(placed(size=None)), 1)


def test_bool_bytes_beside_a_place_are_zero_or_one() -> None:
    """As in any request."""
    other = Input(name="b", datatype="BOOL", shape=[2])

    assert "has the byte 7 in BOOL data" in refusal(message(placed(), other, raw=(b"\x00\x07",)))


@pytest.mark.parametrize(("datatype", "most"), [("BYTES", CONTENTS_LIMIT), ("FP32", PLACED_LIMIT)])
@pytest.mark.parametrize("more", [0, 1])
def test_a_request_is_heavy_by_what_it_has_in_regions(datatype: str, most: int, more: int) -> None:
    """Its own few bytes say nothing of what is to be copied, and cut if it is strings."""
    data = message(placed(datatype=datatype, size=most + more))

    assert is_heavy_placed(data) == bool(more)
    behind = ModelInferRequest(raw_input_contents=[bytes(CONTENTS_LIMIT)]).SerializeToString()
    assert is_heavy_placed(behind + data) == (bool(more) or is_heavy(behind + data))
    assert not is_heavy(data)
    assert not is_heavy_placed(data[:-3])
    assert not is_heavy_placed(message(placed(size=None)))


def response(*outputs: Tensor, **more: Any) -> PlacedResponse:
    """A response with these outputs."""
    return PlacedResponse("m", "1", "i", outputs, **more)


IN_REGION = Tensor("y", DataType.FP32, (2,), Place("out", 8, 16))
TEXTS = Tensor("t", DataType.BYTES, (3,), Place("out", 21))
PLAIN = tensor("p", np.array([1, 2], np.int32))


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("outputs", [(IN_REGION,), (IN_REGION, PLAIN, TEXTS), (PLAIN, TEXTS)])
def test_an_output_in_a_region_is_told_of_and_has_an_empty_entry(
    outputs: tuple[Tensor, ...], typed: bool
) -> None:
    """Its parameters say where it is; the others are raw, whatever was asked for."""
    made = response(*outputs)

    found = ModelInferResponse.FromString(encode_response(made, typed))

    assert encode_message(made, typed) == encode_response(made, typed)
    assert [output.name for output in found.outputs] == [tensor.name for tensor in outputs]
    for tensor_, output, raw in zip(outputs, found.outputs, found.raw_output_contents, strict=True):
        told = {
            key: value.string_param or value.int64_param for key, value in output.parameters.items()
        }
        assert list(output.shape) == list(tensor_.shape)
        assert output.datatype == tensor_.datatype.value
        if tensor_ is PLAIN:
            assert (told, raw) == ({}, PLAIN.numpy().tobytes())
        else:
            assert (told, raw) == (dict(tensor_.array.parameters), b"")


def test_an_offset_of_nothing_is_not_told() -> None:
    """As clients leave it out."""
    assert dict(TEXTS.array.parameters) == {
        "shared_memory_region": "out",
        "shared_memory_byte_size": 21,
    }


def test_a_response_in_a_region_leaves_others_of_its_kind_as_they_are() -> None:
    """Heads are remembered by name, datatype and shape, which these have in common."""
    plain = InferResponse("m", "1", "i", (tensor("y", np.array([1, 2], np.float32)),))
    before = encode_message(plain)

    encode_message(response(IN_REGION))
    encode_response(response(IN_REGION))

    assert encode_message(plain) == before


def test_a_message_of_a_stream_tells_of_a_region_too() -> None:
    """With the parameter that says whether it is the last."""
    data = encode_stream_response(response(IN_REGION, parameters={"k": 1}), final=False)

    found = ModelStreamInferResponse.FromString(data).infer_response
    assert found.outputs[0].parameters["shared_memory_region"].string_param == "out"
    assert list(found.raw_output_contents) == [b""]
    assert not found.parameters["triton_final_response"].bool_param
    assert found.parameters["k"].int64_param == 1


def test_a_tensor_in_a_region_may_be_larger_than_any_message() -> None:
    """Nothing of it is in the message."""
    huge = Tensor("y", DataType.FP32, (1 << 30,), Place("out", 1 << 32))

    assert len(encode_response(response(huge))) < 200
