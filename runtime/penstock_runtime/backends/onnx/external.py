"""The files that an ONNX model says its weights are in, read off the bytes of the model.

A walk over the few messages of the format that lead to tensors; weights are stepped over, not read.
Field numbers are those of onnx.proto.
"""

import mmap
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from penstock_runtime.errors import InvalidArgument

# By kind of message: which fields hold a message worth entering, and of which kind it is.
_INTO: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "training": {1: "graph", 2: "graph"},
        "function": {7: "node", 11: "attribute"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "node": {5: "attribute"},
        "attribute": {
            5: "tensor",
            6: "graph",
            10: "tensor",
            11: "graph",
            22: "sparse",
            23: "sparse",
        },
        "sparse": {1: "tensor", 2: "tensor"},
        "tensor": {13: "entry"},
    }
)
Data = bytes | mmap.mmap
_FIXED = {1: 8, 5: 4}
_KEY = b"location"
# Graphs nest in attributes of nodes; protobuf itself gives up at a hundred messages.
_MAX_DEPTH = 100


class _Span(NamedTuple):
    kind: str
    start: int
    end: int
    depth: int


def locations(data: Data, name: str) -> set[str]:
    """Every location of external data in the bytes of a model; `name` is for the errors.

    InvalidArgument for bytes that are no such message.
    """
    # The key is written out for every tensor that has one: most models hold none.
    if data.find(_KEY) < 0:
        return set()
    found: set[str] = set()
    waiting = [_Span("model", 0, len(data), 0)]
    while waiting:
        span = waiting.pop()
        if span.kind == "entry":
            found.update(_location(data, span, name))
            continue
        into = _INTO[span.kind]
        for field, start, end in _fields(data, span.start, span.end, name):
            if field in into:
                if span.depth >= _MAX_DEPTH:
                    raise _broken(name, f"nests deeper than {_MAX_DEPTH} messages")
                waiting.append(_Span(into[field], start, end, span.depth + 1))
    return found


def _location(data: Data, span: _Span, name: str) -> Iterator[str]:
    key = value = b""
    for field, start, end in _fields(data, span.start, span.end, name):
        if field == 1:
            key = bytes(data[start:end])
        elif field == 2:
            value = bytes(data[start:end])
    if key == _KEY:
        try:
            yield value.decode()
        except UnicodeDecodeError:
            raise _broken(name, "names a file with weights in no UTF-8") from None


def _fields(data: Data, at: int, end: int, name: str) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of every length-delimited field of one message."""
    while at < end:
        tag, at = _varint(data, at, end, name)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at, end, name)
            if size > end - at:
                raise _broken(name, f"claims {size} bytes where {end - at} are left")
            yield tag >> 3, at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(data, at, end, name)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise _broken(name, f"has a field of kind {kind}")
    if at != end:
        raise _broken(name, "ends within a field")


def _varint(data: Data, at: int, end: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _broken(name, "ends within a number")


def _broken(name: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{name} is no ONNX model: it {what}")
