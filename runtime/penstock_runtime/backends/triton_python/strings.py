"""Text tensors: object arrays of bytes, and their length-prefixed form."""

from typing import Any

import numpy as np

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.datatype import AnyArray
from penstock_runtime.tensor import object_array, pack_bytes

_LENGTH = 4


def serialize_byte_tensor(input_tensor: AnyArray) -> AnyArray | None:
    """The elements of a tensor of bytes or text (any shape, row-major), each after its length in
    four little-endian bytes, as an array of one object; empty for none.
    """
    if input_tensor.size == 0:
        return np.empty([0], dtype=np.object_)
    if input_tensor.dtype.kind not in "OSU":
        raise TritonModelException(f"cannot serialize {input_tensor.dtype}: expected bytes or text")
    packed = np.empty([1], dtype=np.object_)
    packed[0] = pack_bytes(input_tensor)
    return packed


def deserialize_bytes_tensor(encoded_tensor: Any) -> AnyArray:
    """The elements of a length-prefixed buffer, as a 1-D object array of bytes."""
    data = bytes(encoded_tensor)
    items: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + _LENGTH
        end += int.from_bytes(data[at:end], "little")
        if end > len(data) or at + _LENGTH > len(data):
            raise TritonModelException(
                f"element {len(items)} ends after the buffer of {len(data)} bytes"
            )
        items.append(data[at + _LENGTH : end])
        at = end
    return object_array(items)


def as_bytes(array: AnyArray) -> AnyArray:
    """An array of text or bytes as an object array of bytes; the same if it is one."""
    flat = array.reshape(-1).tolist()
    if array.dtype == object and all(type(item) is bytes for item in flat):
        return array
    items = [item if isinstance(item, bytes) else str(item).encode() for item in flat]
    return object_array(items).reshape(array.shape)
