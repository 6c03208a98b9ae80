"""Tensors in wire form: the entries that describe them and the data that follows.

Inputs of a request and outputs of a response have the same entry under the same tag, so both
encoders share this module.
"""

from typing import Any, NamedTuple

import numpy as np

from penstock.codec.contents import has_typed_form, write_contents
from penstock.codec.wire import sized, text, varint
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.tensor import Tensor, raw_bytes

SIZE_LIMIT = (1 << 31) - 1
_ENTRY_TAG = b"\x2a"
# Below this size a copy costs less than a view.
COPIED = 16 << 10

Part = bytes | memoryview


class Slot(NamedTuple):
    """Where the raw data of one tensor goes: the bytes before it, its size and the dtype that its
    array must have. The size is -1 for BYTES, and `before` then only the tag.
    """

    before: bytes
    size: int
    dtype: np.dtype[Any]


def entry(tensor: Tensor, contents: bytes | None = None, parameters: bytes = b"") -> bytes:
    """The field that describes a tensor, with its parameters and its typed contents if given."""
    parts = [text(b"\x0a", tensor.name), text(b"\x12", tensor.datatype.value)]
    if tensor.shape:
        parts.append(sized(b"\x1a", b"".join(map(varint, tensor.shape))))
    parts.append(parameters)
    if contents is not None:
        parts += (b"\x2a", varint(len(contents)), contents)
    return b"".join((_ENTRY_TAG, varint(sum(map(len, parts))), *parts))


def typed_entries(tensors: tuple[Tensor, ...]) -> bytes | None:
    """Entries with typed contents; None when a tensor has no typed form (FP16, BF16)."""
    if not all(has_typed_form(tensor.datatype) for tensor in tensors):
        return None
    return b"".join([entry(tensor, write_contents(tensor)) for tensor in tensors])


def slot(tensor: Tensor, raw_tag: bytes) -> Slot:
    """The slot of a tensor of this datatype and shape."""
    if tensor.datatype is DataType.BYTES:
        return Slot(raw_tag, -1, tensor.datatype.numpy)
    size = tensor.elements * tensor.datatype.size
    return Slot(raw_tag + varint(size), size, tensor.datatype.numpy)


def add_raw(parts: list[Part], tensor: Tensor, place: Slot) -> int:
    """Append a tensor's raw data and what goes before it; how many bytes the slot did not foresee.

    Internal when the array does not fill the tensor's shape.
    """
    before, size, dtype = place
    array = tensor.array
    if type(array) is np.ndarray and array.dtype is dtype and array.nbytes == size < COPIED:
        parts += (before, array.tobytes())
        return 0
    if size < 0:
        return _add_strings(parts, tensor, before)
    raw = raw_bytes(tensor)
    found = memoryview(raw).nbytes
    if found != size:
        raise Internal(f"{tensor!r} holds {found} bytes, expected {size}")
    parts += (before, raw)
    return 0


def _add_strings(parts: list[Part], tensor: Tensor, before: bytes) -> int:
    if not tensor.is_raw and tensor.numpy().size != tensor.elements:
        raise Internal(
            f"{tensor!r} holds {tensor.numpy().size} elements, expected {tensor.elements}"
        )
    raw = raw_bytes(tensor)
    found = memoryview(raw).nbytes
    length = varint(found)
    parts += (before, length, raw)
    return len(length) + found


def check_size(size: int, message: str = "Response") -> None:
    """Refuse a message that no gRPC peer could receive."""
    if size > SIZE_LIMIT:
        raise InvalidArgument(
            f"{message} has byte size {size} which exceeds gRPC's byte size limit {SIZE_LIMIT}."
        )
