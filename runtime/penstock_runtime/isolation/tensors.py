"""Arrays by name as they pass between processes: large ones in shared memory, small ones in the
message, strings in their length-prefixed form.

What is read was written by a process that is not trusted: each offset, length, datatype and shape
is held against the memory that is there.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from penstock_runtime.datatype import BY_WIRE_NAME, AnyArray, DataType, from_numpy
from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.isolation.freelist import rounded
from penstock_runtime.isolation.segments import Arena, Block
from penstock_runtime.tensor import BytesFormatError, pack_bytes, to_host, unpack_bytes

# What is no larger is copied once more rather than shared: that costs less than a block.
SMALL = 16 << 10
MOST_TENSORS = 4096
MOST_DIMS = 64


class Packed(NamedTuple):
    """Arrays on their way: what the note says of them, and the bytes that lie in no block."""

    note: dict[str, Any]
    data: tuple[bytes | memoryview, ...]
    block: Block | None


class _Part(NamedTuple):
    name: str
    datatype: DataType
    shape: tuple[int, ...]
    size: int
    source: Any


def pack(arrays: Mapping[str, Any], arena: Arena) -> Packed:
    """The arrays, copied once: into a block if they are large and there is room, else into the
    message.
    """
    parts = [_part(name, array) for name, array in arrays.items()]
    total = sum(rounded(part.size) for part in parts)
    taken = arena.take(total) if total > SMALL else None
    if taken is None:
        data: memoryview = memoryview(bytearray(total))
        block = None
    else:
        block, data = taken
    told, at = [], 0
    for part in parts:
        _write(part, data[at : at + part.size])
        told.append([part.name, part.datatype.value, part.shape, at, part.size])
        at += rounded(part.size)
    note: dict[str, Any] = {"tensors": told}
    if block is not None:
        note["block"] = block
        return Packed(note, (), block)
    return Packed(note, (data,) if total else (), None)


def _part(name: str, array: Any) -> _Part:
    values = to_host(array)
    datatype = from_numpy(values.dtype)
    if datatype is DataType.BYTES:
        raw = pack_bytes(values)
        return _Part(name, datatype, values.shape, len(raw), raw)
    if datatype is DataType.BF16:
        values = values.view(np.uint16)
    return _Part(name, datatype, values.shape, values.size * datatype.size, values)


def _write(part: _Part, target: memoryview) -> None:
    if isinstance(part.source, bytes):
        target[:] = part.source
    elif part.size:
        np.copyto(np.frombuffer(target, part.datatype.numpy).reshape(part.shape), part.source)


def unpack(told: Any, data: Any) -> dict[str, AnyArray]:
    """The arrays that a note tells of, as views on the data (strings: copies). BrokenProtocol for
    what does not lie inside it.

    `data` is an array of bytes or anything with a buffer.
    """
    if not isinstance(told, list) or len(told) > MOST_TENSORS:
        raise BrokenProtocol("the tensors of a message are no list, or too long a one")
    whole = data if isinstance(data, np.ndarray) else as_array(data)
    arrays: dict[str, AnyArray] = {}
    for item in told:
        name, array = _unpacked(item, whole)
        if name in arrays:
            raise BrokenProtocol(f"tensor '{name[:64]}' comes twice")
        arrays[name] = array
    return arrays


def _unpacked(item: Any, whole: AnyArray) -> tuple[str, AnyArray]:
    if not isinstance(item, list) or len(item) != 5:
        raise BrokenProtocol("a tensor is not told of by five values")
    name, word, dims, start, size = item
    datatype = BY_WIRE_NAME.get(word) if isinstance(word, str) else None
    if not isinstance(name, str) or datatype is None:
        raise BrokenProtocol("a tensor has no name or no datatype")
    shape = _shape(dims)
    if not (_count(start) and _count(size) and start + size <= whole.size):
        raise BrokenProtocol(f"tensor '{name[:64]}' does not lie in the {whole.size} bytes of it")
    elements = prod(shape)
    part = whole[start : start + size]
    if datatype is DataType.BYTES:
        try:
            return name, unpack_bytes(part, elements).reshape(shape)
        except (BytesFormatError, ValueError):
            raise BrokenProtocol(f"tensor '{name[:64]}' holds no {elements} strings") from None
    if elements * datatype.size != size or start % datatype.size:
        raise BrokenProtocol(
            f"tensor '{name[:64]}' has {size} bytes at {start}, expected"
            f" {elements} x {datatype.size}"
        )
    try:
        return name, part.view(datatype.numpy).reshape(shape)
    except ValueError:
        raise BrokenProtocol(f"tensor '{name[:64]}' has a shape that no array has") from None


def as_array(data: Any) -> AnyArray:
    """Bytes as an array on them; there may be none."""
    return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)


def _shape(dims: Any) -> tuple[int, ...]:
    if not isinstance(dims, list) or len(dims) > MOST_DIMS or not all(map(_count, dims)):
        raise BrokenProtocol("a tensor has a shape that is none")
    return tuple(dims)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62
