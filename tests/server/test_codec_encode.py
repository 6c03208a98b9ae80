"""Responses are written as protobuf would write them, and read by Triton's own client."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from tests.server.codec_strategies import RAW_ONLY, responses, tensors, varint
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as triton

from penstock.codec import encode
from penstock.codec.encode import encode_response, encode_stream_error, encode_stream_response
from penstock.codec.parameters import read_any
from penstock_protos.inference import ModelInferResponse, ModelStreamInferResponse
from penstock_runtime.datatype import DataType, bf16_to_float32
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.request import InferResponse
from penstock_runtime.tensor import Tensor, raw_bytes, tensor


def read_by_triton(data: bytes, name: str) -> Any:
    """The output as Triton's client gives it to its user."""
    result: Any = InferResult(triton.ModelInferResponse.FromString(data))
    return result.as_numpy(name)


@given(responses())
def test_bytes_are_those_of_protobuf(response: InferResponse) -> None:
    """The hand-written bytes parse to the message that protobuf builds from the same values."""
    data = encode_response(response)

    parsed = ModelInferResponse.FromString(data)

    expected = ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id,
        outputs=[
            ModelInferResponse.InferOutputTensor(
                name=output.name, datatype=output.datatype.value, shape=output.shape
            )
            for output in response.outputs
        ],
        raw_output_contents=[bytes(raw_bytes(output)) for output in response.outputs],
    )
    assert read_any(parsed.parameters) == response.parameters
    parsed.ClearField("parameters")
    assert parsed == expected
    if not response.parameters:
        assert data == expected.SerializeToString(deterministic=True)


@given(tensors(tuple(dt for dt in DataType if dt is not DataType.BF16)))
def test_triton_client_reads_raw_outputs(output: Tensor) -> None:
    """Triton's client finds in a raw response the array that the model gave."""
    found = read_by_triton(encode_response(InferResponse("m", "1", "", (output,))), output.name)

    assert found.shape == output.shape
    np.testing.assert_array_equal(found, output.numpy())


@given(tensors((DataType.BF16,)))
def test_triton_client_widens_bf16(output: Tensor) -> None:
    """Triton's client finds a BF16 output as the same values in float32."""
    found = read_by_triton(encode_response(InferResponse("m", "1", "", (output,))), output.name)

    # Clients of some versions find a bfloat16 array instead, where numpy has been given that type.
    widened = found.ravel().astype(np.float32)
    np.testing.assert_array_equal(widened, bf16_to_float32(output.array).ravel())


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_output_without_typed_form_makes_the_response_raw(datatype: DataType) -> None:
    """FP16 and BF16 have no typed contents: every output of such a response is raw."""
    half = Tensor("h", datatype, (2,), np.zeros(2, datatype.numpy))
    response = InferResponse("m", "1", "", (tensor("y", np.ones(3, np.int32)), half))

    assert encode_response(response, typed=True) == encode_response(response)


def test_strided_and_foreign_arrays_are_written_row_major() -> None:
    """Transposed, sliced, 0-d and wrongly typed arrays give the bytes of their values."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (base.T, base[::2, ::-1], np.array(base[1, 2]), np.asfortranarray(base)):
        output = Tensor("y", DataType.FP32, array.shape, array)

        found = read_by_triton(encode_response(InferResponse("m", "1", "", (output,))), "y")

        np.testing.assert_array_equal(found, array)
    doubles = Tensor("y", DataType.FP32, base.shape, base.astype(np.float64))
    found = read_by_triton(encode_response(InferResponse("m", "1", "", (doubles,))), "y")
    np.testing.assert_array_equal(found, base)


def test_large_arrays_and_wire_bytes_are_written() -> None:
    """Arrays above the size that is copied, and tensors that are still bytes, arrive whole."""
    large = np.arange(100_000, dtype=np.int64)
    raw = Tensor("r", DataType.INT64, (100_000,), memoryview(large.tobytes()))
    strings = Tensor("s", DataType.BYTES, (1,), memoryview(b"\x02\x00\x00\x00hi"))

    data = encode_response(InferResponse("m", "1", "", (tensor("y", large), raw, strings)))

    np.testing.assert_array_equal(read_by_triton(data, "y"), large)
    np.testing.assert_array_equal(read_by_triton(data, "r"), large)
    assert read_by_triton(data, "s").tolist() == [b"hi"]


def test_responses_of_one_kind_differ_in_id_and_data() -> None:
    """What is remembered of a response is its kind: shape, datatype, name, model and version."""
    seen = set()
    for model in ("a", "b"):
        for shape in ((2, 3), (3, 2), (6,)):
            for dtype in (np.int32, np.float32):
                values = np.arange(6, dtype=dtype).reshape(shape)
                response = InferResponse(model, "1", str(shape), (tensor("y", values),))

                data = [encode_response(response) for _ in range(2)]

                parsed = ModelInferResponse.FromString(data[1])
                assert data[0] == data[1]
                assert (parsed.model_name, parsed.id) == (model, str(shape))
                assert tuple(parsed.outputs[0].shape) == shape
                seen.add(data[0])
    assert len(seen) == 12


def test_memory_of_heads_is_bounded() -> None:
    """However many kinds of responses there are, few are remembered."""
    for n in range(3000):
        encode_response(InferResponse(f"m{n}", "1"))

    assert len(encode._HEADS) <= 1024


@pytest.mark.parametrize("typed", [False, True])
def test_response_beyond_what_grpc_carries_is_refused(typed: bool) -> None:
    """A response above 2^31-1 bytes is refused with its size, before its data is copied."""
    values = np.broadcast_to(np.float16(0), (1 << 30, 1 << 20))
    response = InferResponse("m", "1", "", (Tensor("y", DataType.FP16, values.shape, values),))

    with pytest.raises(InvalidArgument) as caught:
        encode_response(response, typed)

    entry = ModelInferResponse.InferOutputTensor(name="y", datatype="FP16", shape=values.shape)
    rest = ModelInferResponse(model_name="m", model_version="1", outputs=[entry])
    size = rest.ByteSize() + 1 + len(varint(1 << 51)) + (1 << 51)
    assert caught.value.message == (
        f"Response has byte size {size} which exceeds gRPC's byte size limit 2147483647."
    )


def test_text_without_utf8_form_does_not_spoil_the_response() -> None:
    """A lone surrogate in a model's text becomes a question mark, and the client can read on."""
    response = InferResponse("m", "1", "a\ud800", (), {"k\ud800": "v\ud800"})

    parsed = ModelInferResponse.FromString(encode_response(response))

    assert parsed.id == "a?"
    assert read_any(parsed.parameters) == {"k?": "v?"}


def test_parameters_of_numpy_are_numbers() -> None:
    """What a model computed with numpy is a bool, an integer or a float on the wire."""
    given_values: dict[str, Any] = {
        "b": np.bool_(True),
        "i": np.int32(-3),
        "u": np.uint64((1 << 64) - 1),
        "f": np.float32(0.5),
    }

    parsed = ModelInferResponse.FromString(
        encode_response(InferResponse("m", "1", parameters=given_values))
    )

    assert read_any(parsed.parameters) == {"b": True, "i": -3, "u": (1 << 64) - 1, "f": 0.5}
    assert parsed.parameters["b"].WhichOneof("parameter_choice") == "bool_param"


@pytest.mark.parametrize("value", [None, b"x", [1], 1 << 64, -(1 << 63) - 1])
def test_parameter_that_the_wire_cannot_hold_is_internal(value: Any) -> None:
    """A model's parameter of another kind is the model's fault, and named."""
    with pytest.raises(Internal, match="parameter 'k'"):
        encode_response(InferResponse("m", "1", parameters={"k": value}))


# -- the stream ----------------------------------------------------------------------------------


@given(responses())
def test_stream_message_wraps_the_response(response: InferResponse) -> None:
    """A stream's message holds exactly the unary response."""
    parsed = ModelStreamInferResponse.FromString(encode_stream_response(response))

    assert parsed.error_message == ""
    assert parsed.infer_response == ModelInferResponse.FromString(encode_response(response))


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("given_flag", [None, False, True])
def test_final_flag_is_a_parameter(final: bool, given_flag: bool | None) -> None:
    """triton_final_response says what the server says, whatever the model said."""
    own = {} if given_flag is None else {"triton_final_response": given_flag}
    response = InferResponse("m", "1", parameters={"k": 1, **own})

    parsed = ModelStreamInferResponse.FromString(encode_stream_response(response, final=final))

    found = read_any(parsed.infer_response.parameters)
    assert found == {"k": 1, "triton_final_response": final}


def test_stream_error_names_its_request() -> None:
    """An error in a stream says which request it belongs to."""
    data = encode_stream_error("bad\ud800", "m", "2", "id-1", {"reason": "R"})

    parsed = ModelStreamInferResponse.FromString(data)

    answer = parsed.infer_response
    assert parsed.error_message == "bad?"
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "id-1")
    assert read_any(answer.parameters) == {"reason": "R"}
    assert ModelStreamInferResponse.FromString(encode_stream_error("e")).HasField("infer_response")
