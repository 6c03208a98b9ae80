"""A request is decoded without copies, and refused with the texts that clients match on."""

from typing import Any

import numpy as np
import pytest
from tests.server.codec_strategies import field, message

from penstock.codec import envelope
from penstock.codec.decode import decode_request
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
