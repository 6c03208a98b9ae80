"""A serialized ModelInferResponse, or a message of the response stream, becomes a value: the
client's side of `encode`.

What a server sent and cannot be read is Internal: the request was not at fault.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from penstock.codec.contents import Owner, read_contents
from penstock.codec.parameters import FINAL_RESPONSE, read_any
from penstock.codec.places import read_place
from penstock.codec.wire import Buffer, expect_length, fields, shown
from penstock_protos.inference import ModelInferResponse
from penstock_runtime.datatype import AnyArray, DataType, from_wire
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.memory.places import REGION
from penstock_runtime.request import EMPTY, InferResponse, Parameters
from penstock_runtime.tensor import Tensor, unpack_bytes

_RAW = 6
_ERROR_MESSAGE, _INFER_RESPONSE = 1, 2
_MOST_FIELDS = 1 << 16

_Output = ModelInferResponse.InferOutputTensor
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StreamError:
    """One request of a stream failed; the stream goes on."""

    message: str
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=lambda: EMPTY)


def decode_response(data: Buffer) -> InferResponse:
    """The response in `data`. Raw outputs are read-only numpy views on it; BYTES are cut out; the
    array of one that lies in shared memory is its Place.

    `final` is what the parameter triton_final_response says, True without it.
    """
    return _reading(_response, data)


def decode_stream_response(data: Buffer) -> InferResponse | StreamError:
    """The response, or the error of one request, that a message of a stream carries."""
    return _reading(_stream_response, data)


def _reading(read: Callable[[Buffer], _T], data: Buffer) -> _T:
    try:
        return read(data)
    except InvalidArgument as error:
        raise Internal(f"the server's response cannot be read: {error.message}") from None
    except DecodeError:
        raise Internal(
            "the server's response cannot be read: it is malformed, or a text in it is not UTF-8"
        ) from None


def _stream_response(data: Buffer) -> InferResponse | StreamError:
    view = memoryview(data)
    message = ""
    response: Buffer = b""
    for found in fields(data, 0, len(data), _MOST_FIELDS):
        number, _, start, stop = found
        if number == _ERROR_MESSAGE:
            expect_length(found, "error_message")
            message = bytes(view[start:stop]).decode(errors="replace")
        elif number == _INFER_RESPONSE:
            expect_length(found, "infer_response")
            # Several are one, as protobuf merges them; one alone stays a view.
            response = view[start:stop] if not response else b"".join((response, view[start:stop]))
    answer = _response(response)
    if not message:
        return answer
    return StreamError(
        message, answer.model_name, answer.model_version, answer.id, answer.parameters
    )


def _response(data: Buffer) -> InferResponse:
    head, raws = _cut(data)
    message = ModelInferResponse.FromString(head)
    parameters = read_any(message.parameters)
    outputs = tuple(
        _tensor(output, raws[index] if index < len(raws) else None, message.model_name)
        for index, output in enumerate(message.outputs)
    )
    return InferResponse(
        message.model_name,
        message.model_version,
        message.id,
        outputs,
        parameters,
        final=bool(parameters.get(FINAL_RESPONSE, True)),
        empty=not outputs and FINAL_RESPONSE in parameters,
    )


def _cut(data: Buffer) -> tuple[bytes, list[memoryview]]:
    """The message without its raw contents, and views on these."""
    view = memoryview(data)
    pieces: list[memoryview] = []
    raws: list[memoryview] = []
    kept = begin = 0
    for found in fields(data, 0, len(data), _MOST_FIELDS):
        number, _, start, stop = found
        if number == _RAW:
            expect_length(found, "raw_output_contents")
            raws.append(view[start:stop])
            pieces.append(view[kept:begin])
            kept = stop
        begin = stop
    pieces.append(view[kept:])
    return b"".join(pieces), raws


def _tensor(output: _Output, raw: memoryview | None, model: str) -> Tensor:
    datatype, shape = from_wire(output.datatype), tuple(output.shape)
    name = shown(output.name)
    if any(dim < 0 for dim in shape):
        raise InvalidArgument(f"output '{name}' has a negative dimension")
    if output.parameters and REGION in output.parameters:
        return Tensor(output.name, datatype, shape, read_place(output.parameters, "output", name))
    if raw is None:
        array = _typed(output, datatype, model)
    elif datatype is DataType.BYTES:
        array = unpack_bytes(raw, prod(shape))
    else:
        expected = prod(shape) * datatype.size
        if len(raw) != expected:
            raise InvalidArgument(f"output '{name}' has {len(raw)} bytes, expected {expected}")
        array = np.frombuffer(raw, datatype.numpy)
    return Tensor(output.name, datatype, shape, _shaped(array, name, shape))


def _typed(output: _Output, datatype: DataType, model: str) -> AnyArray:
    array = read_contents(output.contents, datatype, Owner("output", output.name, model))
    return np.empty(0, datatype.numpy) if array is None else array


def _shaped(array: AnyArray, name: str, shape: tuple[int, ...]) -> AnyArray:
    if array.size != prod(shape):
        raise InvalidArgument(f"output '{name}' has {array.size} elements, expected {prod(shape)}")
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        # Nothing in it, yet too many or too large dimensions for numpy.
        raise InvalidArgument(f"output '{name}' has a shape that numpy cannot hold") from None
