"""The short way of a streamed response: what a message says before the data of each output is
remembered from the response before, so that one more costs a comparison and a copy.

A lane writes the very bytes that the careful way would, or refuses.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from penstock.codec.encode import stream_opening
from penstock.codec.wire import varint
from penstock.stream_pressure import UNCOUNTED_BYTES, Pressure
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import UNSENT_LIMIT, OneOutput
from penstock_runtime.stream_lane import Lane
from penstock_runtime.tensor import Tensor


class Sender(Protocol):
    """Where messages wait, and who is told of them."""

    messages: list[bytes]
    posted: bool
    listed: bool
    done: bool

    def post(self) -> None:
        """Wake the consumer."""

    def forget(self) -> None:
        """Drop what waits."""


class Place(NamedTuple):
    """One output of a message: the bytes before its data, and what its array must be."""

    before: bytes
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def places(data: bytes, outputs: Sequence[Tensor]) -> tuple[Place, ...] | None:
    """Where the outputs of a response are in its message; None unless all are plain numbers.

    `data` ends with the raw contents of the outputs: for each a tag, its size and its data.
    """
    found: list[Place] = []
    end = len(data)
    for index in range(len(outputs) - 1, -1, -1):
        name, datatype, shape, array = _parts(outputs[index])
        plain = type(array) is np.ndarray and array.dtype is datatype.numpy
        if not plain or datatype is DataType.BYTES:
            return None
        start = end - array.nbytes
        end = start - 1 - len(varint(array.nbytes)) if index else 0
        found.append(Place(data[end:start], name, array.dtype, shape))
    return tuple(reversed(found)) or None


def _parts(tensor: Tensor) -> tuple[str, DataType, tuple[int, ...], Any]:
    return tensor.name, tensor.datatype, tensor.shape, tensor.array


def open_lane(
    sender: Sender, kind: OneOutput, identity: str, shape: tuple[int, ...]
) -> Lane | None:
    """The lane of small responses of a model with one output of this shape, before there is one."""
    before = stream_opening(kind, identity, shape)
    if len(before) + prod(shape) * kind.datatype.size > UNCOUNTED_BYTES:
        return None
    return _single(sender, Place(before, kind.output, kind.datatype.numpy, shape))


def make_lane(sender: Sender, pressure: Pressure, like: InferResponse, data: bytes) -> Lane | None:
    """The lane of responses like this one, whose message is `data`."""
    found = places(data, like.outputs)
    if found is None:
        return None
    if len(data) > UNCOUNTED_BYTES:
        return _heavy(sender, pressure, found, len(data))
    return _single(sender, found[0]) if len(found) == 1 else _several(sender, found)


def _single(sender: Sender, place: Place) -> Lane:
    # Every small response of a model with one output passes here: nothing is called in vain.
    before, name, dtype, shape = place
    messages, append, ndarray = sender.messages, sender.messages.append, np.ndarray

    def lane(outputs: Any) -> bool:
        array = outputs if type(outputs) is ndarray else _only_of(outputs, name)
        if (
            array is None
            or array.dtype is not dtype
            or array.shape != shape
            or len(messages) >= UNSENT_LIMIT
        ):
            return False
        append(before + array.tobytes())
        # Looked at after the append: a consumer that was told takes off both marks before it looks
        # at the messages.
        if not sender.posted and not sender.listed:
            sender.post()
        return True

    return lane


def _only_of(outputs: Mapping[str, Any], name: str) -> Any:
    """The array of this name if there is one, and nothing else."""
    array = outputs.get(name)
    return array if type(array) is np.ndarray and len(outputs) == 1 else None


def _several(sender: Sender, found: Sequence[Place]) -> Lane:
    messages = sender.messages

    def lane(outputs: Any) -> bool:
        parts = _filled(outputs, found)
        if parts is None or len(messages) >= UNSENT_LIMIT:
            return False
        messages.append(b"".join(parts))
        if not sender.posted and not sender.listed:
            sender.post()
        return True

    return lane


def _heavy(sender: Sender, pressure: Pressure, found: Sequence[Place], size: int) -> Lane:
    messages = sender.messages

    def lane(outputs: Any) -> bool:
        parts = _filled(outputs, found)
        if parts is None or len(messages) >= UNSENT_LIMIT or pressure.over:
            return False
        pressure.add(size)
        messages.append(b"".join(parts))
        if not sender.posted and not sender.listed:
            sender.post()
        if sender.done:
            # The consumer may have dropped the rest before this was there.
            sender.forget()
        return True

    return lane


def _filled(outputs: Any, found: Sequence[Place]) -> list[Any] | None:
    """The message in pieces; None if an output is not what it was."""
    if type(outputs) is np.ndarray:
        outputs = {found[0].name: outputs}
    if len(outputs) != len(found):
        return None
    parts: list[Any] = []
    for before, name, dtype, shape in found:
        array = outputs.get(name)
        if type(array) is not np.ndarray or array.dtype is not dtype or array.shape != shape:
            return None
        parts.append(before)
        # Copied once, into the message, where the memory already has the order of the wire.
        parts.append(array if array.flags.c_contiguous else array.tobytes())
    return parts
