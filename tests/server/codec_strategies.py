"""Tensors, requests and responses of every datatype and shape, for the laws of the codec."""

from math import prod
from typing import Any

import numpy as np
from hypothesis import strategies as st

from penstock_protos.inference import ModelInferRequest
from penstock_runtime.datatype import DataType
from penstock_runtime.request import (
    InferRequest,
    InferResponse,
    Parameter,
    Parameters,
    RequestedOutput,
)
from penstock_runtime.tensor import Tensor, object_array, raw_bytes

RAW_ONLY = (DataType.FP16, DataType.BF16)
TYPED = tuple(datatype for datatype in DataType if datatype not in RAW_ONLY)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
int64s = st.integers(-(1 << 63), (1 << 63) - 1)
values: st.SearchStrategy[Parameter] = st.one_of(
    st.booleans(), int64s, texts, st.floats(allow_nan=False)
)
keys = names.filter(
    lambda key: (
        not key.startswith("triton_")
        and key not in ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout")
        and key not in ("classification", "shared_memory_region")
    )
)
parameters: st.SearchStrategy[Parameters] = st.dictionaries(keys, values, max_size=4)


@st.composite
def arrays(draw: st.DrawFn, datatype: DataType, shape: tuple[int, ...]) -> Any:
    """An array of any values: NaN, subnormals, elements with NULs."""
    count = prod(shape)
    if datatype is DataType.BYTES:
        items = draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count))
        return object_array(items).reshape(shape)
    data = draw(st.binary(min_size=count * datatype.size, max_size=count * datatype.size))
    if datatype is DataType.BOOL:
        return (np.frombuffer(data, np.uint8) % 2).astype(np.bool_).reshape(shape)
    return np.frombuffer(data, datatype.numpy).reshape(shape)


@st.composite
def tensors(
    draw: st.DrawFn,
    datatypes: tuple[DataType, ...] = tuple(DataType),
    name: str | None = None,
) -> Tensor:
    """A tensor of one of the datatypes, of any shape."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(shapes)
    array = draw(arrays(datatype, shape))
    return Tensor(name if name is not None else draw(names), datatype, shape, array)


def several(datatypes: tuple[DataType, ...]) -> st.SearchStrategy[tuple[Tensor, ...]]:
    """Tensors with different names."""
    return st.lists(tensors(datatypes), max_size=4, unique_by=lambda t: t.name).map(tuple)


@st.composite
def requests(draw: st.DrawFn, datatypes: tuple[DataType, ...] = tuple(DataType)) -> InferRequest:
    """A request as a client may send it."""
    outputs = st.builds(RequestedOutput, names, parameters)
    sequence: int | str = draw(st.integers(0, (1 << 64) - 1) | texts)
    return InferRequest(
        model_name=draw(names),
        model_version=draw(texts),
        id=draw(ids),
        inputs=draw(several(datatypes)),
        outputs=tuple(draw(st.lists(outputs, max_size=3))),
        parameters=draw(parameters),
        priority=draw(st.integers(0, 9)),
        timeout_us=draw(st.integers(0, 10**6)),
        correlation_id=sequence,
        sequence_start=draw(st.booleans()),
        sequence_end=draw(st.booleans()),
        received_ns=7,
    )


@st.composite
def responses(draw: st.DrawFn, datatypes: tuple[DataType, ...] = tuple(DataType)) -> InferResponse:
    """A response as a model may give it."""
    return InferResponse(
        model_name=draw(texts),
        model_version=draw(texts),
        id=draw(texts),
        outputs=draw(several(datatypes)),
        parameters=draw(parameters),
    )


def same(one: Tensor, other: Tensor, bits: bool = True) -> bool:
    """Whether two tensors are equal: bit by bit, or else with every NaN equal to every other."""
    if (one.name, one.datatype, one.shape) != (other.name, other.datatype, other.shape):
        return False
    if bits or one.datatype is DataType.BYTES:
        return bytes(raw_bytes(one)) == bytes(raw_bytes(other))
    floats = one.datatype in (DataType.FP32, DataType.FP64)
    return np.array_equal(one.numpy().ravel(), other.numpy().ravel(), equal_nan=floats)


def message(**fields: Any) -> ModelInferRequest:
    """A request message for model m with one FP32[2] input x, unless the fields say otherwise."""
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2])
    given = {"model_name": "m", "inputs": [tensor], "raw_input_contents": [bytes(8)], **fields}
    return ModelInferRequest(**given)


def varint(number: int) -> bytes:
    """A second opinion on how to write a varint."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload
