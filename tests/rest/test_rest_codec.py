"""Tensors over HTTP: what is sent is what the model gets, and what it answers is what arrives."""

# ruff: noqa: E501 - a row of a table is one line

import json
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.codec_strategies import RAW_ONLY, TYPED, arrays, ids, names, shapes

from penstock.codec.decode import decode_parts
from penstock.rest.documents import expect_object
from penstock.rest.face_infer import is_heavy_body
from penstock.rest.generate_request import read_generate_request
from penstock.rest.infer_request import Body, Wishes, read_infer_request, split_body
from penstock.rest.infer_response import write_response
from penstock.rest.tensor_values import flatten, read_values
from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.tensor import Tensor, materialize, object_array, raw_bytes


@st.composite
def tensors(draw: st.DrawFn, *, json_only: bool = False) -> Tensor:
    """A tensor that JSON can say, or any."""
    datatype = draw(st.sampled_from(TYPED if json_only else tuple(DataType)))
    shape = draw(shapes)
    array = draw(arrays(datatype, shape))
    if json_only and datatype is DataType.BYTES:
        texts = [item.hex().encode() for item in array.reshape(-1)]
        array = object_array(texts).reshape(shape)
    if json_only and array.dtype.kind == "f":
        array = np.nan_to_num(array, posinf=1, neginf=-1)
    return Tensor(draw(names), datatype, shape, array)


def as_json(tensor: Tensor) -> list[Any]:
    """The values of a tensor as a client writes them, nested as they are."""
    if tensor.datatype is DataType.BYTES:
        texts = [item.decode() for item in tensor.array.reshape(-1)]
        values: list[Any] = np.array(texts, dtype=object).reshape(tensor.shape).tolist()
        return values
    found: list[Any] = tensor.array.tolist()
    return found


def decoded(body: bytes, length: int | None = None) -> tuple[InferRequest, Wishes]:
    """The request in a body."""
    cut = split_body(body, None if length is None else str(length))
    parts, wishes = read_infer_request(cut, "m", "")
    return decode_parts(parts, 1), wishes


def described(tensor: Tensor) -> dict[str, Any]:
    """The entry of a tensor without its data."""
    return {"name": tensor.name, "datatype": tensor.datatype.value, "shape": list(tensor.shape)}


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are alike, to the bit."""
    return left[:3] == right[:3] and bytes(raw_bytes(left)) == bytes(raw_bytes(right))


@given(st.lists(tensors(), max_size=3, unique_by=lambda t: t.name), ids)
def test_binary_inputs_arrive_to_the_bit(sent: list[Tensor], identity: str) -> None:
    """Every datatype and shape, one behind the other; nothing is copied."""
    blobs = [bytes(raw_bytes(tensor)) for tensor in sent]
    entries = [
        {**described(tensor), "parameters": {"binary_data_size": len(blob)}}
        for tensor, blob in zip(sent, blobs, strict=True)
    ]
    head = json.dumps({"id": identity, "inputs": entries}).encode()
    body = b"".join((head, *blobs))

    request, _ = decoded(body, len(head))

    assert (request.id, request.model_name) == (identity, "m")
    assert all(map(same, request.inputs, sent))
    assert all(tensor.array.obj is body for tensor in request.inputs)


@given(tensors(json_only=True), st.booleans())
def test_json_inputs_arrive_to_the_bit(sent: Tensor, flat: bool) -> None:
    """Nested as the shape is, or flat."""
    if not sent.shape:
        sent = Tensor(sent.name, sent.datatype, (1,), sent.array.reshape(1))
    values = flatten(as_json(sent), "x") if flat else as_json(sent)
    body = json.dumps({"inputs": [{**described(sent), "data": values}]}).encode()

    request, _ = decoded(body)

    assert same(request.inputs[0], sent)


@given(st.lists(tensors(json_only=True), max_size=3, unique_by=lambda t: t.name), st.data())
def test_outputs_arrive_to_the_bit(sent: list[Tensor], data: st.DataObject) -> None:
    """In binary or as JSON, each as it is wished."""
    wishes = Wishes({tensor.name: data.draw(st.booleans()) for tensor in sent})
    response = InferResponse("m", "1", "id", tuple(sent))

    pieces, length = write_response(response, wishes)

    body = b"".join(pieces)
    document = json.loads(body[:length])
    assert (length is None) == (not any(wishes.named.values()))
    assert all(map(same, read_outputs(document, body[length or len(body) :]), sent))


def read_outputs(document: Any, binary: bytes) -> list[Tensor]:
    """The outputs of a response as a client reads them."""
    found, at = [], 0
    for entry in document["outputs"]:
        datatype, shape = DataType(entry["datatype"]), tuple(entry["shape"])
        if "data" in entry:
            array = read_values(entry["data"], datatype, entry["name"])
            found.append(Tensor(entry["name"], datatype, shape, array.reshape(shape)))
            continue
        size = entry["parameters"]["binary_data_size"]
        raw = Tensor(entry["name"], datatype, shape, memoryview(binary[at : at + size]))
        found.append(materialize(raw))
        at += size
    return found


@pytest.mark.parametrize("datatype", RAW_ONLY)
def test_half_precision_is_binary_only(datatype: DataType) -> None:
    """JSON has no form of it, in or out, and the text says what has."""
    output = Tensor("o", datatype, (1,), np.zeros(1, datatype.numpy))
    text = f"sending {datatype.value} data via JSON is not supported. Please use the binary data"

    with pytest.raises(InvalidArgument, match=f"{text} format for input i"):
        read_values([1.0], datatype, "i")
    with pytest.raises(InvalidArgument, match=f"{text} format for output o"):
        write_response(InferResponse("m", "1", "", (output,)), Wishes({}))


def test_bytes_that_are_no_text_need_the_binary_form() -> None:
    """JSON cannot say them."""
    output = Tensor("o", DataType.BYTES, (1,), object_array([b"\xff"]))
    response = InferResponse("m", "1", "", (output,))

    with pytest.raises(InvalidArgument, match="output 'o' has bytes that are not UTF-8"):
        write_response(response, Wishes({}))
    pieces, _ = write_response(response, Wishes({}, others=True))
    assert b"".join(pieces).endswith(b"\x01\x00\x00\x00\xff")


def test_numbers_that_are_not_finite_are_written_as_triton_writes_them() -> None:
    """What was computed is told, although strict readers of JSON do not know the words."""
    array = np.array([np.nan, np.inf, -np.inf, 0.1], np.float32)
    response = InferResponse("m", "1", "", (Tensor("o", DataType.FP32, (4,), array),))

    pieces, _ = write_response(response, Wishes({}))

    assert b'"data":[NaN,Infinity,-Infinity,0.10000000149011612]' in pieces[0]


@pytest.mark.parametrize(
    ("values", "datatype", "part"),
    [
        (1, "INT32", "is an integer, expected an array"),
        ("ab", "BYTES", "is a string, expected an array"),
        ([1.5], "INT32", "has a number, expected integers for datatype 'INT32'"),
        ([True], "INT32", "has a boolean, expected integers"),
        (["1"], "INT32", "has a string, expected integers"),
        ([None], "FP32", "has null, expected integers or numbers"),
        ([1], "BOOL", "has an integer, expected booleans"),
        ([1], "BYTES", "has an integer, expected strings"),
        ([{}], "FP32", "has an object, expected"),
        ([[1], [2, 3]], "INT32", "rows of different lengths"),
        ([[1], 2], "INT32", "rows of different lengths"),
        ([1, [2]], "INT32", "has an array, expected integers"),
        ([128], "INT8", "out of range for datatype 'INT8'"),
        ([-1], "UINT64", "out of range for datatype 'UINT64'"),
        ([1 << 64], "UINT64", "out of range"),
        ([1e39], "FP32", "out of range for datatype 'FP32'"),
        ([10**400], "FP64", "out of range for datatype 'FP64'"),
        (["\ud800"], "BYTES", "half a surrogate pair"),
    ],
)
def test_values_that_do_not_suit_the_datatype_are_refused(
    values: Any, datatype: str, part: str
) -> None:
    """Nothing is cut, wrapped or guessed."""
    with pytest.raises(InvalidArgument) as refused:
        read_values(values, DataType(datatype), "x")

    assert part in refused.value.message


def test_the_deepest_nesting_is_that_of_the_most_dimensions() -> None:
    """A value within 32 arrays is read, within 33 it is refused."""
    value: Any = [1]
    for _ in range(31):
        value = [value]

    assert read_values(value, DataType.INT32, "x").tolist() == [1]
    with pytest.raises(InvalidArgument, match="nested more than 32 deep"):
        read_values([value], DataType.INT32, "x")


X = {"name": "X", "datatype": "INT32", "shape": [1], "data": [1]}
BINARY = {"name": "X", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ({}, "has no 'inputs'"),
        ({"inputs": 1}, "'inputs' is an integer, expected an array"),
        ({"inputs": [1]}, "an entry of 'inputs' is an integer, expected an object"),
        ({"inputs": [{}]}, "the name of an input is null, expected a string"),
        ({"inputs": [{**X, "datatype": 1}]}, "'datatype' of input 'X' is an integer"),
        ({"inputs": [{**X, "datatype": "FP8"}]}, "input 'X': unknown datatype 'FP8'"),
        ({"inputs": [{**X, "shape": 1}]}, "input 'X' has no 'shape' that is an array of integers"),
        ({"inputs": [{**X, "shape": [True]}]}, "input 'X' has no 'shape'"),
        ({"inputs": [{**X, "shape": [1 << 70]}]}, "a dimension of more than 64 bits"),
        ({"inputs": [{**X, "shape": [1] * 33}]}, "more than 32 dimensions"),
        ({"inputs": [X, X]}, "input 'X' already exists in request"),
        ({"inputs": [X] * 257}, "257 inputs, expected at most 256"),
        ({"inputs": [{**X, "parameters": {str(n): n for n in range(65)}}]}, "at most 64"),
        ({"inputs": [{"name": "X", "datatype": "INT32", "shape": [1]}]}, "unable to find data for"),
        ({"inputs": [{**X, **BINARY}]}, "input 'X' has both 'data' and binary data"),
        ({"inputs": [BINARY]}, "a 'binary_data_size' of 4, 0 bytes are left"),
        ({"inputs": [{**BINARY, "parameters": {"binary_data_size": -1}}]}, "no number of bytes"),
        ({"inputs": [{**BINARY, "parameters": {"binary_data_size": True}}]}, "no number of bytes"),
        ({"inputs": [X], "outputs": {}}, "'outputs' is an object, expected an array"),
        ({"inputs": [X], "outputs": [{"name": "o"}] * 257}, "257 outputs, expected at most 256"),
        ({"inputs": [X], "outputs": [{"name": "o", "parameters": {"binary_data": 1}}]}, "'binary_data' is an integer"),
        ({"inputs": [X], "parameters": {"binary_data_output": "x"}}, "'binary_data_output' is a string"),
        ({"inputs": [X], "parameters": {"a": None}}, "parameter 'a' is null, expected"),
        ({"inputs": [X], "parameters": {"a": [1]}}, "parameter 'a' is an array, expected"),
        ({"inputs": [X], "parameters": {"a": 1 << 64}}, "a number of more than 64 bits"),
        ({"inputs": [X], "parameters": {"timeout": -1}}, "invalid value for 'timeout'"),
        ({"inputs": [X], "parameters": {str(n): n for n in range(65)}}, "65 parameters"),
        ({"inputs": [X], "id": 7}, "'id' is an integer, expected a string"),
        ({"inputs": [X], "id": "a\nb"}, "the request id has control characters"),
        ({"inputs": [{"name": "B", "datatype": "BOOL", "shape": [1], "data": [2]}]}, "expected booleans"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_request_is_refused_in_words(document: Any, part: str) -> None:
    """InvalidArgument names the field, what it is and what was expected."""
    with pytest.raises(InvalidArgument) as refused:
        decoded(json.dumps(document).encode())

    assert part in refused.value.message


words = "inputs outputs parameters name datatype shape data id INT32 BYTES X timeout"
words += " binary_data_size binary_data shared_memory_region classification"
scraps = st.sampled_from(words.split())
leaves = st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.floats() | scraps | st.text()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scraps, inner, max_size=5),
    max_leaves=12,
)
likely = st.fixed_dictionaries(
    {"inputs": st.lists(st.dictionaries(scraps, anything, max_size=6) | anything, max_size=3)},
    optional={"outputs": anything, "parameters": anything, "id": anything},
)


@given(likely | anything, st.binary(max_size=8))
def test_any_document_is_a_request_or_a_refusal(document: Any, binary: bytes) -> None:
    """Whatever JSON says, no other error comes of it."""
    head = json.dumps(document).encode()
    for refusal in (
        refused_by(lambda: decoded(head + binary, len(head))),
        refused_by(lambda: decode_parts(read_generate(json.loads(head)), 1)),
    ):
        assert refusal is None or isinstance(refusal, InvalidArgument | Unsupported)


def read_generate(document: Any) -> Any:
    """As a request to generate, if it is an object."""
    expected = expect_object(document, "it")
    config = ModelConfig(name="m", input=(ModelInput("X", DataType.INT32, (-1, -1)),))
    return read_generate_request(expected, "m", "", config)


def refused_by(read: Callable[[], object]) -> Exception | None:
    """The error that reading ends with."""
    try:
        read()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "9" * 30, "1000000", "٣"])
def test_a_length_that_is_not_in_the_body_is_refused(length: str) -> None:
    """Negative, huge, no number: nothing is read by it."""
    with pytest.raises(InvalidArgument, match="Inference-Header-Content-Length"):
        split_body(b"{}", length)


def test_binary_data_that_belongs_to_nobody_is_refused() -> None:
    """Every byte of the body has an owner."""
    head = json.dumps({"inputs": [BINARY]}).encode()

    with pytest.raises(InvalidArgument, match="has 1 bytes of binary data that belong to no input"):
        decoded(head + bytes(5), len(head))


def test_parameters_have_the_types_of_their_values_in_json() -> None:
    """Those of scheduling become fields of the request; an id of 64 bits has no sign."""
    parameters = {
        "a": True, "b": 7, "c": 0.5, "d": "x", "priority": 3, "timeout": 9,
        "sequence_id": (1 << 64) - 1, "sequence_start": True, "binary_data_output": True,
    }  # fmt: skip
    body = json.dumps({"inputs": [X], "parameters": parameters}).encode()

    request, wishes = decoded(body)

    assert request.parameters == {"a": True, "b": 7, "c": 0.5, "d": "x"}
    assert (request.priority, request.timeout_us) == (3, 9)
    assert (request.correlation_id, request.sequence_start) == ((1 << 64) - 1, True)
    assert wishes.binary("anything")
    assert prod(request.inputs[0].shape) == 1


@pytest.mark.parametrize("written", [b'"BYTES"', b'"BYT\\u0045S"'])
def test_strings_are_cut_out_beside_the_loop_however_their_datatype_is_written(
    written: bytes,
) -> None:
    """JSON may write any letter as an escape."""
    binary = memoryview(bytes(1 << 17))

    heavy = is_heavy_body(Body(b'{"inputs": [{"datatype": ' + written + b"}]}", binary))
    light = is_heavy_body(Body(b'{"inputs": [{"datatype": "FP32"}]}', binary))

    assert (heavy, light) == (True, False)
