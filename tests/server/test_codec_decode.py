"""A request is decoded without copies, and refused with the texts that clients match on."""

from typing import Any

import numpy as np
import pytest
from tests.server.codec_strategies import field, message

from penstock.codec import envelope
from penstock.codec.decode import decode_request
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock_protos.inference import InferParameter, InferTensorContents, ModelInferRequest
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
Contents = InferTensorContents
NOW = 1_000


def refusal(request: ModelInferRequest | bytes) -> str:
    """The text with which the request is refused, the same the second time."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    texts = set()
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            decode_request(data, NOW)
        texts.add(caught.value.message)
    (text,) = texts
    return text


def with_parameter(key: str, **value: Any) -> ModelInferRequest:
    """A request with one parameter."""
    return message(parameters={key: InferParameter(**value)})


# -- what comes out ------------------------------------------------------------------------------


def test_every_field_arrives() -> None:
    """Names, shapes, outputs and what the call says are found in the request."""
    data = message(
        model_version="3",
        id="é-7",
        outputs=[Output(name="y", parameters={"classification": InferParameter(int64_param=2)})],
        parameters={"k": InferParameter(double_param=0.5)},
    ).SerializeToString()

    request = decode_request(data, NOW, deadline_ns=9, headers={"h": "v"})

    assert (request.model_name, request.model_version, request.id) == ("m", "3", "é-7")
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", DataType.FP32, (2,))
    assert request.outputs[0].name == "y"
    assert request.outputs[0].parameters == {"classification": 2}
    assert request.parameters == {"k": 0.5}
    assert request.headers == {"h": "v"}
    assert (request.deadline_ns, request.received_ns) == (9, NOW)


@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_raw_inputs_share_the_memory_of_the_request(wrap: Any) -> None:
    """No tensor is copied, the first time or later."""
    data = wrap(message().SerializeToString())

    requests = [decode_request(data, NOW) for _ in range(2)]

    whole = np.frombuffer(data, np.uint8)
    for request in requests:
        raw = request.inputs[0].array
        assert isinstance(raw, memoryview)
        assert np.shares_memory(np.frombuffer(raw, np.uint8), whole)


@pytest.mark.parametrize(("field_name", "datatype"), [("fp32", "FP32"), ("fp64", "FP64")])
def test_packed_floats_share_the_memory_of_the_request(field_name: str, datatype: str) -> None:
    """Typed floats are viewed where they lie, when nothing has to be cut out of the message."""
    values: Any = {f"{field_name}_contents": [1.5, -2.0]}
    contents = Contents(**values)
    tensor = Input(name="x", datatype=datatype, shape=[2], contents=contents)
    data = message(inputs=[tensor], raw_input_contents=[]).SerializeToString()

    array = decode_request(data, NOW).inputs[0].array

    assert array.tolist() == [1.5, -2.0]
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_requests_of_one_kind_differ_in_id_parameters_and_data() -> None:
    """What is remembered of a request is only what its bytes have in common with the next."""
    for n in range(3):
        raw = bytes([n]) * 8
        data = message(
            id=f"id-{n}",
            parameters={"n": InferParameter(int64_param=n)},
            raw_input_contents=[raw],
        ).SerializeToString()

        request = decode_request(data, n)

        assert (request.id, request.received_ns) == (f"id-{n}", n)
        assert request.parameters == {"n": n}
        assert bytes(request.inputs[0].array) == raw


def test_memory_of_envelopes_is_bounded() -> None:
    """However many kinds of requests come, few are remembered, and no long one."""
    for n in range(3000):
        decode_request(message(model_name=f"m{n}").SerializeToString(), NOW)
    long_name = message(model_name="n" * 5000)

    decode_request(long_name.SerializeToString(), NOW)

    remembered = envelope._REMEMBERED
    assert len(remembered) <= 1024
    assert all(len(head) <= 1024 for head in remembered)


def test_last_of_repeated_scalars_counts() -> None:
    """A name or an id that comes twice has its last value, as protobuf has it."""
    data = message(id="a").SerializeToString() + field(3, b"b") + field(1, b"other")

    request = decode_request(data, NOW)

    assert (request.id, request.model_name) == ("b", "other")


def test_shapes_pass_as_they_are() -> None:
    """Negative dimensions and products beyond 64 bits are the engine's to refuse."""
    shapes: tuple[list[int], ...] = (
        [-1, 16],
        [1 << 62, 1 << 62],
        [0, 1 << 62],
        [],
        [16, (1 << 60) + 2],
    )

    decoded = [
        decode_request(
            message(inputs=[Input(name="x", datatype="FP32", shape=s)]).SerializeToString(), NOW
        )
        for s in shapes
    ]

    assert [r.inputs[0].shape for r in decoded] == [tuple(s) for s in shapes]


def test_request_without_inputs_is_decoded() -> None:
    """Whether a model can do without inputs is the engine's to say."""
    data = message(inputs=[], raw_input_contents=[]).SerializeToString()

    assert decode_request(data, NOW).inputs == ()


# -- names and ids -------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", field(3, b"id"), field(5, b""), b"\x78\x01"])
def test_model_name_is_required(data: bytes) -> None:
    """An empty message, or one without a model, is refused."""
    assert refusal(data) == "the request has no model_name, expected the name of a model"


@pytest.mark.parametrize(
    "data",
    [
        field(1, b"\xff"),
        field(1, b"m") + field(2, b"\xc0\x80"),
        field(1, b"m") + field(3, b"\xed\xa0\x80"),
        field(1, b"m") + field(5, field(1, b"\xfe")),
        field(1, b"m") + field(6, field(1, b"\xfe")),
        field(1, b"m") + field(4, field(1, b"\xff") + field(2, b"\x08\x01")),
        field(1, b"m") + field(4, field(1, b"k") + field(2, field(3, b"\xff"))),
    ],
)
def test_text_that_is_not_utf8_is_refused(data: bytes) -> None:
    """Names, ids, keys and values must be UTF-8; the text says so and names no Python class."""
    text = refusal(data)

    assert "UTF-8" in text
    assert "Error" not in text


def test_id_is_limited_in_bytes() -> None:
    """An id may have 1024 bytes."""
    decode_request(message(id="é" * 512).SerializeToString(), NOW)

    assert "1026 bytes, expected at most 1024" in refusal(message(id="é" * 513))
    assert "1048576 bytes" in refusal(message(id="i" * (1 << 20)))


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\u2028"])
def test_id_has_no_control_characters(character: str) -> None:
    """What could end a line of a log is no part of an id; printable text of any script is."""
    decode_request(message(id="日本 \u00a0\u200d🙂").SerializeToString(), NOW)

    assert refusal(message(id=f"a{character}b")) == "the request id has control characters"


@pytest.mark.parametrize("datatype", ["FP8", "", "fp32", "T" * (1 << 20)])
def test_unknown_datatype_is_refused(datatype: str) -> None:
    """The text names the input and the datatype, cut short."""
    text = refusal(message(inputs=[Input(name="x", datatype=datatype, shape=[2])]))

    assert text.startswith(f"input 'x': unknown datatype '{datatype[:32]}")
    assert len(text) < 300


def test_duplicate_input_is_refused() -> None:
    """Two inputs of one name."""
    tensor = Input(name="x", datatype="FP32", shape=[2])

    text = refusal(message(inputs=[tensor, tensor], raw_input_contents=[bytes(8)] * 2))

    assert text == "input 'x' already exists in request"


# -- parameters ----------------------------------------------------------------------------------


def test_scheduling_parameters_become_fields() -> None:
    """Sequence, priority and timeout leave the custom parameters."""
    data = message(
        parameters={
            "sequence_id": InferParameter(int64_param=-1),
            "sequence_start": InferParameter(bool_param=True),
            "sequence_end": InferParameter(bool_param=True),
            "priority": InferParameter(uint64_param=3),
            "timeout": InferParameter(int64_param=500),
            EMPTY_FINAL_RESPONSE: InferParameter(bool_param=True),
            "text": InferParameter(string_param=""),
        }
    ).SerializeToString()

    request = decode_request(data, NOW)

    assert request.correlation_id == (1 << 64) - 1
    assert (request.sequence_start, request.sequence_end) == (True, True)
    assert (request.priority, request.timeout_us) == (3, 500)
    assert request.parameters == {EMPTY_FINAL_RESPONSE: True, "text": ""}


def test_sequence_id_may_be_text() -> None:
    """A correlation id keeps its kind."""
    data = with_parameter("sequence_id", string_param="s-1").SerializeToString()

    assert decode_request(data, NOW).correlation_id == "s-1"


WRONG_TYPES = [
    ("sequence_id", {"uint64_param": 1}, "int64_param or string_param"),
    ("sequence_id", {"double_param": 1.0}, "int64_param or string_param"),
    ("sequence_start", {"int64_param": 1}, "bool_param"),
    ("sequence_end", {"string_param": "true"}, "bool_param"),
    ("priority", {"string_param": "1"}, "int64_param or uint64_param"),
    ("timeout", {"uint64_param": 1}, "int64_param"),
    ("timeout", {"double_param": float("nan")}, "int64_param"),
    (EMPTY_FINAL_RESPONSE, {"int64_param": 1}, "bool_param"),
    ("mine", {"uint64_param": 1}, "bool_param, int64_param, string_param or double_param"),
    ("mine", {}, "bool_param, int64_param, string_param or double_param"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG_TYPES)
def test_parameter_of_the_wrong_type_is_refused(
    key: str, value: dict[str, Any], expected: str
) -> None:
    """The text names the key and the types that it may have."""
    text = refusal(with_parameter(key, **value))

    assert text == f"invalid value type for '{key}' parameter, expected {expected}."


WRONG_VALUES = [
    ("priority", {"int64_param": -1}, "expected value >= 0."),
    ("priority", {"uint64_param": 1 << 63}, "expected value <= 9223372036854775807."),
    ("timeout", {"int64_param": -1}, "expected value >= 0."),
    ("timeout", {"int64_param": 1 << 62}, "expected value <= 9223372036854775."),
]


@pytest.mark.parametrize(("key", "value", "expected"), WRONG_VALUES)
def test_parameter_out_of_range_is_refused(key: str, value: dict[str, Any], expected: str) -> None:
    """Negative or absurdly large values are refused, never wrapped."""
    text = refusal(with_parameter(key, **value))

    assert text == f"invalid value for '{key}', {expected}"


@pytest.mark.parametrize("key", ["triton_final_response", "triton_", "triton_anything"])
def test_reserved_keys_are_refused(key: str) -> None:
    """Only the documented reserved key may be set by a caller."""
    text = refusal(with_parameter(key, bool_param=True))

    assert text == (
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following "
        "keys starting with 'triton_' are allowed: triton_enable_empty_final_response"
    )


def test_classification_is_an_integer() -> None:
    """A requested output's classification of another type is refused."""
    wrong = {"classification": InferParameter(string_param="2")}

    text = refusal(message(outputs=[Output(name="y", parameters=wrong)]))

    assert text == "invalid value type for 'classification' parameter, expected int64_param."


def test_forwarded_headers_join_the_parameters() -> None:
    """Headers that the server forwards are parameters to the model; reserved names are refused."""
    data = with_parameter("k", int64_param=1).SerializeToString()

    request = decode_request(data, NOW, forwarded={"x-user": "ann"})

    assert request.parameters == {"k": 1, "x-user": "ann"}
    with pytest.raises(InvalidArgument) as caught:
        decode_request(data, NOW, forwarded={"Triton_secret": "v"})
    assert caught.value.message == (
        "Header 'Triton_secret' is reserved for Triton usage and cannot be forwarded."
    )


def test_parameters_come_before_the_inputs() -> None:
    """Of several faults the first in the protocol's order is reported."""
    tensor = Input(name="x", datatype="FP32", shape=[2], contents=Contents(fp32_contents=[1, 2]))
    both = message(inputs=[tensor, tensor], parameters={"priority": InferParameter(int64_param=-1)})

    assert "priority" in refusal(both)
    both.ClearField("parameters")
    assert "already exists" in refusal(both)
    del both.inputs[1]
    assert "contents field must not be specified" in refusal(both)


# -- sources of data -----------------------------------------------------------------------------


def test_raw_and_typed_data_do_not_mix() -> None:
    """Contents beside raw contents are refused, even if they are empty or another input's."""
    typed = Input(name="b", datatype="FP32", shape=[2], contents=Contents(fp32_contents=[1, 2]))
    empty = Input(name="b", datatype="FP32", shape=[2], contents=Contents())
    plain = Input(name="a", datatype="FP32", shape=[2])

    texts = {refusal(message(inputs=[plain, tensor])) for tensor in (typed, empty)}

    assert texts == {
        "contents field must not be specified when using raw_input_contents for 'b' for model 'm'"
    }


@pytest.mark.parametrize("raws", [[], [bytes(8)]])
def test_input_without_data_is_refused(raws: list[bytes]) -> None:
    """The first input for which the request holds nothing is named."""
    tensors = [Input(name=n, datatype="FP32", shape=[2]) for n in ("a", "b")]

    text = refusal(message(inputs=tensors, raw_input_contents=raws))

    name = "ab"[len(raws)]
    assert text == f"unable to find data for input tensor '{name}' for model 'm' in request."


def test_too_many_raw_contents_are_refused() -> None:
    """One entry for each input, not more, also for a kind of request that is remembered."""
    decode_request(message().SerializeToString(), NOW)

    text = refusal(message(raw_input_contents=[bytes(8)] * 2))

    assert text == "expected 1 raw_input_contents for model 'm', got 2"


@pytest.mark.parametrize("owner", ["inputs", "outputs"])
def test_shared_memory_is_disabled(owner: str) -> None:
    """Any use of a region is UNIMPLEMENTED, with the text that says how to enable it."""
    region = {"shared_memory_region": InferParameter(string_param="r")}
    kind: Any = Input if owner == "inputs" else Output
    tensor = kind(name="x", parameters=region)
    if owner == "inputs":
        tensor.datatype = "FP32"

    with pytest.raises(Unsupported) as caught:
        decode_request(message(**{owner: [tensor]}).SerializeToString(), NOW)

    assert caught.value.message == (
        "Client shared memory is disabled. "
        "Start the server with '--allow-client-shm=true' to enable."
    )


@pytest.mark.parametrize("size", [4, 100_000])
def test_bool_bytes_are_zero_or_one(size: int) -> None:
    """A raw BOOL byte other than 0 and 1 is refused, each time."""
    good = message(
        inputs=[Input(name="x", datatype="BOOL", shape=[size])],
        raw_input_contents=[b"\x00\x01" * (size // 2)],
    )
    decode_request(good.SerializeToString(), NOW)
    bad = message(inputs=good.inputs, raw_input_contents=[bytes(size - 1) + b"\x02"])

    text = refusal(bad)

    assert text == "input 'x' for model 'm' has the byte 2 in BOOL data, expected 0 or 1"
    decode_request(message(inputs=good.inputs, raw_input_contents=[b""]).SerializeToString(), NOW)


def test_violations_name_the_field() -> None:
    """A refusal says which field was wrong in a form that programs read."""
    cases = {
        "id": message(id="\n"),
        "inputs[x]": message(raw_input_contents=[]),
        "raw_input_contents": message(raw_input_contents=[bytes(8)] * 2),
    }

    for name, request in cases.items():
        with pytest.raises(InvalidArgument) as caught:
            decode_request(request.SerializeToString(), NOW)
        assert [violation.field for violation in caught.value.violations] == [name]
