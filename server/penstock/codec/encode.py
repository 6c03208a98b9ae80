"""An InferResponse becomes a serialized ModelInferResponse, or a message of the response stream.

The bytes are put together by hand: the head of a response (model, version, outputs) is remembered
by everything that it depends on, so that an ordinary response costs little more than joining it
with the id and the data. `timing` is not encoded here. Outputs in shared memory have been written
there before, and are told of only; a response with such outputs is raw, whatever was asked for.
"""

from typing import Any, NamedTuple

import numpy as np

from penstock.codec.parameters import FINAL_RESPONSE, write_parameters
from penstock.codec.places import in_message, placed_entry, placed_slot
from penstock.codec.tensor_writer import (
    COPIED,
    Part,
    Slot,
    add_raw,
    check_size,
    entry,
    slot,
    typed_entries,
)
from penstock.codec.wire import sized, text, varint
from penstock_runtime.memory.places import PlacedResponse
from penstock_runtime.request import EMPTY, InferResponse, Parameters
from penstock_runtime.stream import OneOutput
from penstock_runtime.tensor import Tensor

_MODEL_NAME, _MODEL_VERSION, _ID, _PARAMETERS, _RAW = b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x32"
_ERROR_MESSAGE, _INFER_RESPONSE = b"\x0a", b"\x12"
_FINAL = {flag: write_parameters(_PARAMETERS, {FINAL_RESPONSE: flag}) for flag in (False, True)}

_MOST_REMEMBERED = 1024
_MOST_OUTPUTS_REMEMBERED = 16
_MOST_SHAPES = 64
# Below this size a copy costs less than a piece more to write.
_JOINED = 32 << 10


class _Head(NamedTuple):
    """What responses of one kind share: the fields before and after the id and the parameters, the
    place of each output's raw data, and the size of all of it but BYTES. `whole` is all that goes
    before the data of the first output if there is no id.
    """

    model: bytes
    outputs: bytes
    slots: tuple[Slot, ...]
    size: int
    whole: bytes


_HEADS: dict[tuple[object, ...], _Head] = {}
_OPENINGS: dict[tuple[OneOutput, tuple[int, ...]], tuple[_Head, bytes]] = {}
_ONLY: dict[OneOutput, dict[tuple[int, ...], _Head]] = {}


def encode_response(response: InferResponse, typed: bool = False) -> bytes:
    """A ModelInferResponse with every output's data raw, or typed if asked for.

    Outputs that have no typed form (FP16, BF16) make the whole response raw. InvalidArgument above
    2^31-1 bytes; Internal when an output's array does not fill its shape.
    """
    return b"".join(_parts(response, typed)[0])


def encode_message(response: InferResponse, typed: bool = False) -> bytes | tuple[Part, ...]:
    """As `encode_response`, but a large message stays in pieces: views on the outputs, no copy."""
    if len(response.outputs) == 1 and not typed and not response.parameters:
        message = _encode_small(response)
        if message is not None:
            return message
    parts, size = _parts(response, typed)
    return b"".join(parts) if size < _JOINED else tuple(parts)


def encode_only(kind: OneOutput, identity: str, array: Any) -> bytes | None:
    """The response whose only output is this array, as `encode_response`; None if it is large.

    The array is numpy's and of the output's datatype, which is not BYTES.
    """
    known = _ONLY.get(kind)
    if known is None:
        if len(_ONLY) >= _MOST_REMEMBERED:
            _ONLY.clear()
        known = _ONLY[kind] = {}
    head = known.get(array.shape)
    if head is None:
        tensors = (Tensor(kind.output, kind.datatype, array.shape, array),)
        head = _head(InferResponse(kind.model_name, kind.model_version, identity, tensors))
        if len(known) >= _MOST_SHAPES:
            known.clear()
        known[array.shape] = head
    if head.slots[0].size >= COPIED:
        return None
    if not identity:
        return b"%b%b" % (head.whole, array.tobytes())
    field = text(_ID, identity)
    return b"%b%b%b%b%b" % (head.model, field, head.outputs, head.slots[0].before, array.tobytes())


def _encode_small(response: InferResponse) -> bytes | None:
    """The path of most responses: one small array of numbers, in place. None for anything else."""
    head = _head(response)
    array = response.outputs[0].array
    before, size, dtype = head.slots[0]
    if (
        type(array) is not np.ndarray
        or array.dtype is not dtype
        or not array.nbytes == size < COPIED
    ):
        return None
    if not response.id:
        return b"%b%b" % (head.whole, array.tobytes())
    identity = text(_ID, response.id)
    return b"%b%b%b%b%b" % (head.model, identity, head.outputs, before, array.tobytes())


def encode_stream_response(
    response: InferResponse, typed: bool = False, final: bool | None = None
) -> bytes:
    """A ModelStreamInferResponse that carries the response, as `encode_response` does.

    `final` is what the parameter triton_final_response says; None leaves the parameter out.
    """
    parts, size = _parts(response, typed, final)
    length = varint(size)
    check_size(1 + len(length) + size)
    return b"".join((_INFER_RESPONSE, length, *parts))


def in_stream(response: bytes) -> bytes:
    """A ModelStreamInferResponse that carries this ModelInferResponse."""
    return sized(_INFER_RESPONSE, response)


def stream_opening(kind: OneOutput, identity: str, shape: tuple[int, ...]) -> bytes:
    """What a message of the response stream says before the data of its only output, if it is not
    the last of its request and has no parameters.
    """
    head, opening = _OPENINGS.get((kind, shape)) or _remember_opening(kind, shape)
    return _opening(head, text(_ID, identity)) if identity else opening


def _remember_opening(kind: OneOutput, shape: tuple[int, ...]) -> tuple[_Head, bytes]:
    tensors = (Tensor(kind.output, kind.datatype, shape, None),)
    head = _head(InferResponse(kind.model_name, kind.model_version, "", tensors))
    if len(_OPENINGS) >= _MOST_REMEMBERED:
        _OPENINGS.clear()
    known = _OPENINGS[kind, shape] = (head, _opening(head, b""))
    return known


def _opening(head: _Head, identity: bytes) -> bytes:
    final, before = _FINAL[False], head.slots[0].before
    size = varint(head.size + len(identity) + len(final))
    return b"".join((_INFER_RESPONSE, size, head.model, identity, final, head.outputs, before))


def encode_stream_error(
    error_text: str,
    model_name: str = "",
    model_version: str = "",
    id: str = "",  # noqa: A002 - the protocol's own word
    parameters: Parameters = EMPTY,
) -> bytes:
    """A ModelStreamInferResponse that says which request failed, and why."""
    request = b"".join(
        (
            text(_MODEL_NAME, model_name),
            text(_MODEL_VERSION, model_version),
            text(_ID, id),
            write_parameters(_PARAMETERS, parameters),
        )
    )
    return text(_ERROR_MESSAGE, error_text) + sized(_INFER_RESPONSE, request)


def _parts(
    response: InferResponse, typed: bool, final: bool | None = None
) -> tuple[list[Part], int]:
    """The message in pieces, and its size."""
    outputs = response.outputs
    if type(response) is PlacedResponse:
        head, outputs = _placed_head(response), tuple(map(in_message, outputs))
    else:
        head = (_typed_head(response) if typed else None) or _head(response)
    parts: list[Part] = [head.model]
    size = head.size
    if response.id:
        identity = text(_ID, response.id)
        parts.append(identity)
        size += len(identity)
    if response.parameters or final is not None:
        parameters = _parameters(response.parameters, final)
        parts.append(parameters)
        size += len(parameters)
    # Before the data is touched: an array that is far too large must not be copied first.
    check_size(size)
    parts.append(head.outputs)
    for place, tensor in zip(head.slots, outputs, strict=False):
        size += add_raw(parts, tensor, place)
    check_size(size)
    return parts, size


def _parameters(parameters: Parameters, final: bool | None) -> bytes:
    if final is None:
        return write_parameters(_PARAMETERS, parameters)
    if not parameters:
        return _FINAL[final]
    others = {key: value for key, value in parameters.items() if key != FINAL_RESPONSE}
    return write_parameters(_PARAMETERS, others) + _FINAL[final]


def _head(response: InferResponse) -> _Head:
    outputs = response.outputs
    key: tuple[object, ...]
    if len(outputs) == 1:
        name, datatype, shape, _ = outputs[0]
        key = (response.model_name, response.model_version, name, datatype, shape)
        head = _HEADS.get(key)
        if head is not None:
            return head
    else:
        key = _key(response)
        head = _HEADS.get(key)
    if head is None:
        slots = tuple(slot(tensor, _RAW) for tensor in outputs)
        head = _new_head(response, b"".join(map(entry, outputs)), slots)
        if len(outputs) <= _MOST_OUTPUTS_REMEMBERED:
            _remember(key, head)
    return head


def _key(response: InferResponse) -> tuple[object, ...]:
    return (
        response.model_name,
        response.model_version,
        *[(tensor.name, tensor.datatype, tensor.shape) for tensor in response.outputs],
    )


def _typed_head(response: InferResponse) -> _Head | None:
    entries = typed_entries(response.outputs)
    return None if entries is None else _new_head(response, entries, ())


def _placed_head(response: PlacedResponse) -> _Head:
    outputs = response.outputs
    slots = tuple(placed_slot(tensor, _RAW) for tensor in outputs)
    return _new_head(response, b"".join(map(placed_entry, outputs)), slots)


def _new_head(response: InferResponse, outputs: bytes, slots: tuple[Slot, ...]) -> _Head:
    model = text(_MODEL_NAME, response.model_name) + text(_MODEL_VERSION, response.model_version)
    data = sum(len(place.before) + max(place.size, 0) for place in slots)
    whole = model + outputs + (slots[0].before if slots else b"")
    return _Head(model, outputs, slots, len(model) + len(outputs) + data, whole)


def _remember(key: tuple[object, ...], head: _Head) -> None:
    # Starting afresh costs each kind of response one miss, and is safe from any thread.
    if len(_HEADS) >= _MOST_REMEMBERED:
        _HEADS.clear()
    _HEADS[key] = head
