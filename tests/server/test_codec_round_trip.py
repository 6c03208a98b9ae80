"""What one side writes the other side reads, whatever the bytes on the way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.codec_strategies import RAW_ONLY, TYPED, field, requests, responses, same

from penstock.codec.decode import decode_request
from penstock.codec.encode import encode_response, encode_stream_error, encode_stream_response
from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import (
    StreamError,
    decode_response,
    decode_stream_response,
)
from penstock_protos.inference import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.tensor import Tensor, tensor


def same_request(one: InferRequest, other: InferRequest, bits: bool) -> bool:
    """Whether two requests say the same."""
    pairs = zip(one.inputs, other.inputs, strict=True)
    rest = (one._replace(inputs=()), other._replace(inputs=()))
    return rest[0] == rest[1] and all(same(a, b, bits) for a, b in pairs)


def shaped(request: InferRequest) -> InferRequest:
    """The request with the flat arrays of typed contents in their shapes."""
    return request._replace(
        inputs=tuple(
            t if t.is_raw else Tensor(t.name, t.datatype, t.shape, t.array.reshape(t.shape))
            for t in request.inputs
        ),
    )


def sequenced(request: InferRequest) -> InferRequest:
    """The request as the wire can say it: "" and 0 are one and the same, no sequence."""
    return request if request.correlation_id else request._replace(correlation_id=0)


@given(requests())
def test_raw_request_arrives_as_it_was_sent(request: InferRequest) -> None:
    """Every datatype and shape, bit by bit, with every parameter."""
    decoded = decode_request(encode_request(request), request.received_ns)

    assert same_request(sequenced(decoded), sequenced(request), bits=True)
    assert all(t.is_raw for t in decoded.inputs)


@given(requests(TYPED))
def test_typed_request_arrives_as_it_was_sent(request: InferRequest) -> None:
    """Every datatype that has a typed form; floats keep even the bits of a NaN."""
    decoded = decode_request(encode_request(request, typed=True), request.received_ns)

    assert same_request(sequenced(shaped(decoded)), sequenced(request), bits=True)
    assert not any(t.is_raw for t in decoded.inputs)


@given(requests())
def test_request_parses_with_protobuf(request: InferRequest) -> None:
    """The client's bytes are a ModelInferRequest with one raw entry for each input."""
    parsed = ModelInferRequest.FromString(encode_request(request))

    assert parsed.model_name == request.model_name
    assert [t.name for t in parsed.inputs] == [t.name for t in request.inputs]
    assert [tuple(t.shape) for t in parsed.inputs] == [t.shape for t in request.inputs]
    assert [o.name for o in parsed.outputs] == [o.name for o in request.outputs]
    assert len(parsed.raw_input_contents) == len(request.inputs)


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_input_without_typed_form_makes_the_request_raw(datatype: DataType) -> None:
    """FP16 and BF16 have no typed contents: every input of such a request is raw."""
    half = Tensor("h", datatype, (2,), np.zeros(2, datatype.numpy))
    request = InferRequest("m", (tensor("x", np.ones(3, np.int32)), half))

    assert encode_request(request, typed=True) == encode_request(request)


def test_request_beyond_what_grpc_carries_is_refused() -> None:
    """A request above 2^31-1 bytes is refused before its data is copied."""
    values = np.broadcast_to(np.float32(0), (1 << 30,))
    request = InferRequest("m", (tensor("x", values),))

    with pytest.raises(
        InvalidArgument, match=r"Request has byte size 42949\d+ which exceeds gRPC's"
    ):
        encode_request(request)


@given(responses(), st.sampled_from([bytes, memoryview]))
def test_raw_response_arrives_as_it_was_sent(
    response: InferResponse, wrap: type[bytes] | type[memoryview]
) -> None:
    """Every datatype and shape, bit by bit, with every parameter."""
    decoded = decode_response(wrap(encode_response(response)))

    assert decoded._replace(outputs=()) == response._replace(outputs=())
    pairs = zip(decoded.outputs, response.outputs, strict=True)
    assert all(same(a, b) for a, b in pairs)
    assert all(t.array.shape == t.shape for t in decoded.outputs)


@given(responses(TYPED))
def test_typed_response_arrives_as_it_was_sent(response: InferResponse) -> None:
    """Every datatype that has a typed form; any NaN stays one."""
    decoded = decode_response(encode_response(response, typed=True))

    assert decoded._replace(outputs=()) == response._replace(outputs=())
    pairs = zip(decoded.outputs, response.outputs, strict=True)
    assert all(same(a, b, bits=False) for a, b in pairs)


def test_raw_outputs_share_the_memory_of_the_response() -> None:
    """The client copies no tensor."""
    values = np.arange(1000, dtype=np.float32)
    data = encode_response(InferResponse("m", "1", "", (tensor("y", values),)))

    (output,) = decode_response(data).outputs

    assert np.shares_memory(output.array, np.frombuffer(data, np.uint8))


@given(responses(), st.none() | st.booleans())
def test_stream_response_arrives_as_it_was_sent(
    response: InferResponse, final: bool | None
) -> None:
    """A response of a stream, and whether it is the last."""
    decoded = decode_stream_response(encode_stream_response(response, final=final))

    assert isinstance(decoded, InferResponse)
    assert (decoded.id, decoded.model_name) == (response.id, response.model_name)
    assert decoded.final is (True if final is None else final)
    assert decoded.empty == (final is not None and not response.outputs)


def test_stream_error_arrives_as_it_was_sent() -> None:
    """An error of a stream and the request that it belongs to."""
    decoded = decode_stream_response(encode_stream_error("bad", "m", "1", "id", {"k": 1}))

    assert decoded == StreamError("bad", "m", "1", "id", {"k": 1})


def test_stream_message_may_come_in_pieces() -> None:
    """Repeated responses merge, as protobuf has it; the error may come last."""
    one = ModelInferResponse(model_name="m").SerializeToString()
    two = ModelInferResponse(id="i").SerializeToString()
    data = field(2, one) + field(2, two) + field(1, b"bad")

    decoded = decode_stream_response(data)

    assert decoded == StreamError("bad", "m", "", "i")
    assert ModelStreamInferResponse.FromString(data).infer_response.id == "i"


Output = ModelInferResponse.InferOutputTensor
UNREADABLE: dict[str, bytes | ModelInferResponse] = {
    "noise": b"\xff\xff\xff",
    "not utf-8": field(1, b"\xff"),
    "name as varint": b"\x08\x01\x0a",
    "raw as varint": b"\x30\x01",
    "unknown datatype": ModelInferResponse(outputs=[Output(datatype="FP8")]),
    "negative dimension": ModelInferResponse(outputs=[Output(datatype="FP32", shape=[-1])]),
    "no data": ModelInferResponse(outputs=[Output(datatype="FP32", shape=[2])]),
    "short data": ModelInferResponse(
        outputs=[Output(datatype="FP32", shape=[2])], raw_output_contents=[b"abc"]
    ),
    "bad strings": ModelInferResponse(
        outputs=[Output(datatype="BYTES", shape=[1])], raw_output_contents=[b"\xff\xff\xff\xff"]
    ),
    "absurd shape": ModelInferResponse(
        outputs=[Output(datatype="FP32", shape=[0, 1 << 62, 1 << 62])], raw_output_contents=[b""]
    ),
    "wrong contents": ModelInferResponse(
        outputs=[Output(datatype="FP32", shape=[1], contents=InferTensorContents(int_contents=[1]))]
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_response_is_internal(kind: str) -> None:
    """What a server sent wrongly is not the caller's fault."""
    given_message = UNREADABLE[kind]
    data = given_message if isinstance(given_message, bytes) else given_message.SerializeToString()

    for read, wire in ((decode_response, data), (decode_stream_response, field(2, data))):
        with pytest.raises(Internal, match="the server's response cannot be read"):
            read(wire)


def test_parameter_without_value_is_left_out() -> None:
    """A response parameter that holds nothing is no parameter."""
    message = ModelInferResponse(model_name="m")
    message.parameters["k"].CopyFrom(InferParameter())

    assert decode_response(message.SerializeToString()).parameters == {}
