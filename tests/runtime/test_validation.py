"""Laws of validation: what fits passes as views, what does not is refused with Triton's words."""

# ruff: noqa: E501 - a row of the table is one line, however long the text of the error is

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, Reshape
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.plain_inputs import PlainInputs
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.tensor import Tensor, pack_bytes
from penstock_runtime.validation import RequestValidator

MODEL = ModelConfig(
    name="m",
    max_batch_size=8,
    input=(
        ModelInput("x", DataType.INT32, (16,)),
        ModelInput("s", DataType.BYTES, (2,), optional=True),
    ),
    output=(ModelOutput("y", DataType.INT32, (16,)),),
)
FULL = ModelConfig(
    name="m",
    input=(ModelInput("x", DataType.FP32, (-1, 4)), ModelInput("z", DataType.FP32, (1,))),
    output=(ModelOutput("y", DataType.FP32, (-1,)),),
)

OPEN = ModelConfig(name="m", input=(ModelInput("x", DataType.FP32, (-1, -1, -1)),))


def raw(name: str, datatype: DataType, shape: tuple[int, ...], size: int | None = None) -> Tensor:
    """A tensor as it comes from the wire: zeros of the right size unless told otherwise."""
    if size is None:
        size = int(np.prod(shape)) * datatype.size
    return Tensor(name, datatype, shape, memoryview(bytes(size)))


def strings(data: bytes) -> Tensor:
    """The optional BYTES input with this wire form, for a batch of one."""
    return Tensor("s", DataType.BYTES, (1, 2), memoryview(data))


X = raw("x", DataType.INT32, (1, 16))
FX, FZ = raw("x", DataType.FP32, (2, 4)), raw("z", DataType.FP32, (1,))
NOTE = "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension"
WHERE = "for inference input 's' for model 'm'"


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "text"),
    [
        (MODEL, (), (), "expected number of inputs between 1 and 2 but got 0 inputs for model 'm'. Got input(s) [], but missing required input(s) ['x']. Please provide all required input(s)."),
        (FULL, (FZ,), (), "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['z'], but missing required input(s) ['x']. Please provide all required input(s)."),
        (MODEL, (raw("q", DataType.INT32, (1, 16)),), (), "unexpected inference input 'q' for model 'm'"),
        (MODEL, (X,), ("q",), "unexpected inference output 'q' for model 'm'"),
        (MODEL, (X,), ("y", "y"), "output 'y' already exists in request"),
        (MODEL, (raw("x", DataType.FP32, (1, 16)),), (), "inference input 'x' data-type is 'FP32', but model 'm' expects 'INT32'"),
        (MODEL, (raw("x", DataType.INT32, (16,), 64),), (), "inference request batch-size must be <= 8 for 'm'"),
        (MODEL, (raw("x", DataType.INT32, (8,), 32),), (), "unexpected shape for input 'x' for model 'm'. Expected [-1,16], got [8]. " + NOTE),
        (FULL, (raw("x", DataType.FP32, (2, 5)), FZ), (), "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [2,5]. "),
        (MODEL, (raw("x", DataType.INT32, (-1, 16), 64),), (), "All input dimensions should be specified for input 'x' for model 'm', got [-1,16]"),
        (FULL, (raw("x", DataType.FP32, (-1, 4), 64), FZ), (), "All input dimensions should be specified for input 'x' for model 'm', got [-1,4]"),
        (MODEL, (raw("x", DataType.INT32, (), 4),), (), "input 'x' has no shape but model requires batch dimension for 'm'"),
        (MODEL, (X, Tensor("s", DataType.BYTES, (2, 2), pack_bytes(np.array([b""] * 4, object)))), (), "input 's' batch size does not match other inputs for 'm'"),
        (MODEL, (raw("x", DataType.INT32, (9, 16)),), (), "inference request batch-size must be <= 8 for 'm'"),
        (MODEL, (raw("x", DataType.INT32, (0, 16)),), (), "inference request batch-size must be > 0 for 'm'"),
        (MODEL, (raw("x", DataType.INT32, (1, 16), 128),), (), "input byte size mismatch for input 'x' for model 'm'. Expected 64, got 128"),
        (MODEL, (raw("x", DataType.INT32, (1, 16), 63),), (), "input byte size mismatch for input 'x' for model 'm'. Expected 64, got 63"),
        (MODEL, (Tensor("x", DataType.INT32, (1, 16), np.zeros(3, np.int32)),), (), "input byte size mismatch for input 'x' for model 'm'. Expected 64, got 12"),
        (FULL, (raw("x", DataType.FP32, (2**62, 4), 16), FZ), (), f"Expected {2**66}, got 16"),
        (OPEN, (raw("x", DataType.FP32, (0, 2**62, 2**62), 0),), (), "[0,4611686018427387904,4611686018427387904] is too large"),
        (MODEL, (X, strings(pack_bytes(np.array([b"a"], object)))), (), f"expected 2 string elements {WHERE}, got 1"),
        (MODEL, (X, strings(pack_bytes(np.array([b"a"] * 3, object)))), (), f"unexpected number of string elements 3 {WHERE}, expecting 2"),
        (MODEL, (X, strings(struct.pack("<I", 1) + b"a" + b"\x01\x00")), (), f"incomplete string length indicator {WHERE}, expecting 4 bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer."),
        (MODEL, (X, strings(b"\xff\xff\xff\xff")), (), f"expected 2 string elements {WHERE}, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_tritons_words(
    model: ModelConfig, inputs: tuple[Tensor, ...], outputs: tuple[str, ...], text: str
) -> None:
    """Each way to be wrong has its text, and is an error of the engine."""
    asked = tuple(RequestedOutput(name) for name in outputs)

    with pytest.raises(InvalidArgument) as refused:
        RequestValidator(model).check(InferRequest("m", inputs, outputs=asked))

    assert text in refused.value.message
    assert refused.value.scheduled


def test_wire_bytes_are_viewed_and_not_copied() -> None:
    """The array of a raw tensor is a view on the bytes that came."""
    data = np.arange(16, dtype=np.int32).tobytes()
    tensor = Tensor("x", DataType.INT32, (1, 16), memoryview(data))

    checked = RequestValidator(MODEL).check(InferRequest("m", (tensor,)))

    assert np.shares_memory(checked.arrays["x"], np.frombuffer(data, np.int32))
    assert checked.rows == 1


def test_requests_with_other_inputs_present_never_share_a_batch() -> None:
    """Optional inputs present or absent, and other shapes, make another signature."""
    validator = RequestValidator(replace(MODEL, dynamic_batching=DynamicBatching()))
    both = (X, strings(pack_bytes(np.array([b"a", b"b"], object))))

    one = validator.check(InferRequest("m", (X,))).signature
    two = validator.check(InferRequest("m", both)).signature
    swapped = validator.check(InferRequest("m", both[::-1])).signature

    assert one != two == swapped


def test_requests_that_padding_cannot_make_alike_never_share_a_batch() -> None:
    """Only the length is padded: rows of another width, joined to a batch, would be everyone's."""
    rules = LengthBatching(input=("x",))
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=(ModelInput("x", DataType.FP32, (-1, 2, -1)),),
        output=(ModelOutput("y", DataType.FP32, (-1,)),),
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    validator = RequestValidator(config)

    def signature(*shape: int) -> object:
        return validator.check(InferRequest("m", (raw("x", DataType.FP32, shape),))).signature

    assert signature(1, 4, 2, 8) == signature(2, 7, 2, 8)
    assert signature(1, 4, 2, 8) != signature(1, 4, 2, 6)


@given(rows=st.integers(1, 4), length=st.integers(0, 5))
def test_reshape_fills_its_wildcards_from_the_request(rows: int, length: int) -> None:
    """The model sees its own shape; -1 there is the wildcard's value."""
    model = ModelConfig(
        name="m",
        max_batch_size=4,
        input=(ModelInput("x", DataType.FP32, (-1, 2), reshape=Reshape((2, -1))),),
    )

    checked = RequestValidator(model).check(
        InferRequest("m", (raw("x", DataType.FP32, (rows, length, 2)),))
    )

    assert checked.arrays["x"].shape == (rows, 2, length)


DIM = st.integers(-1, 3)


@given(
    max_batch=st.sampled_from([0, 2]),
    declared=st.lists(st.sampled_from([-1, 1, 2]), max_size=2),
    shape=st.lists(DIM, max_size=3),
    wrong=st.sampled_from([0, 0, 0, 4]),
    datatype=st.sampled_from([DataType.FP32, DataType.FP32, DataType.INT32]),
)
def test_the_plain_path_says_what_the_careful_one_says(
    max_batch: int, declared: list[int], shape: list[int], wrong: int, datatype: DataType
) -> None:
    """What the ordinary path accepts, the careful path accepts with the same rows and arrays."""
    model = ModelConfig(
        name="m", max_batch_size=max_batch, input=(ModelInput("x", DataType.FP32, tuple(declared)),)
    )
    size = int(np.prod([max(dim, 0) for dim in shape])) * 4 + wrong
    request = InferRequest("m", (raw("x", datatype, tuple(shape), size),))
    plain = PlainInputs(model).arrays(request)

    if plain is None:
        return
    careful = RequestValidator(model)._check_carefully(request)

    assert plain.rows == careful.rows
    assert plain.arrays["x"].shape == careful.arrays["x"].shape
    assert np.shares_memory(plain.arrays["x"], careful.arrays["x"])
