"""A tensor: name, datatype, shape and the array that holds it, wherever it lives. Never copies
silently.

The array is one of: a numpy array; a torch or CuPy array (anything with DLPack); or, straight from
the wire, the raw bytes (bytes or memoryview) in little-endian row-major order, which `materialize`
turns into a view.
"""

import struct
from math import prod
from typing import Any, NamedTuple

import numpy as np

from penstock_runtime.datatype import AnyArray, DataType, float32_to_bf16, from_numpy
from penstock_runtime.errors import InvalidArgument

_LENGTH = struct.Struct("<I")


class Tensor(NamedTuple):
    """One named tensor; `shape` counts elements per dimension, row-major."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    array: Any

    @property
    def elements(self) -> int:
        """How many elements the shape holds."""
        return prod(self.shape)

    @property
    def is_raw(self) -> bool:
        """Whether the array is still the bytes of the wire."""
        return isinstance(self.array, bytes | memoryview | bytearray)

    def numpy(self) -> AnyArray:
        """The array as numpy, without a copy where it already lives in host memory."""
        if isinstance(self.array, np.ndarray):
            return self.array
        if self.is_raw:
            return materialize(self).numpy()
        return to_host(self.array)

    def __repr__(self) -> str:
        dims = ",".join(map(str, self.shape))
        return f"Tensor({self.name!r}, {self.datatype.value}[{dims}])"


def tensor(name: str, array: Any) -> Tensor:
    """A tensor of a numpy array (or a nested sequence), its datatype read off the dtype."""
    values = np.asarray(array)
    return Tensor(name, from_numpy(values.dtype), values.shape, values)


def to_host(array: Any) -> AnyArray:
    """A torch or CuPy array as numpy; bfloat16 arrives as its uint16 halves. Device memory is
    copied.
    """
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):
        return _torch_to_host(array)
    if hasattr(array, "get"):
        return np.asarray(array.get())
    return np.asarray(array)


def _torch_to_host(array: Any) -> AnyArray:
    host = array.detach().cpu()
    if str(host.dtype) == "torch.bfloat16":
        import torch

        host = host.view(torch.uint16)
    values: AnyArray = host.numpy()
    return values


def materialize(source: Tensor) -> Tensor:
    """The tensor with its wire bytes viewed as a numpy array of its shape.

    The bytes are not copied, so the array is read-only. BYTES elements are cut out one by one.
    Raises InvalidArgument when the bytes do not hold exactly the elements of the shape.
    """
    if not source.is_raw:
        return source
    if source.datatype is DataType.BYTES:
        array = unpack_bytes(source.array, source.elements)
    else:
        array = np.frombuffer(source.array, source.datatype.numpy)
    if array.size != source.elements:
        raise InvalidArgument(
            f"tensor '{source.name}' holds {array.size} elements, expected {source.elements}"
        )
    return Tensor(source.name, source.datatype, source.shape, array.reshape(source.shape))


class BytesFormatError(InvalidArgument):
    """Length-prefixed BYTES data that does not hold what its shape says.

    `found` is the number of whole elements; `left` the bytes after them, `cut` whether a prefix was
    cut.
    """

    def __init__(self, found: int, expected: int, left: int, cut: bool) -> None:
        super().__init__(f"expected {expected} string elements, got {found} and {left} more bytes")
        self.found, self.expected, self.left, self.cut = found, expected, left, cut


def unpack_bytes(buffer: Any, count: int) -> AnyArray:
    """`count` BYTES elements (1-D object array of bytes) out of their length-prefixed form.

    Nothing is allocated by a claimed length: every length is held against the bytes that are there.
    """
    data = buffer if isinstance(buffer, bytes) else bytes(buffer)
    size, at, items = len(data), 0, []
    # An element takes at least its prefix, so more than this many cannot be there.
    for _ in range(min(count, size // 4)):
        if at + 4 > size:
            break
        end = at + 4 + _LENGTH.unpack_from(data, at)[0]
        if end > size:
            break
        items.append(data[at + 4 : end])
        at = end
    if len(items) != count or at != size:
        raise BytesFormatError(len(items), count, size - at, 0 < size - at < 4)
    return object_array(items)


def object_array(items: list[bytes]) -> AnyArray:
    """A 1-D object array that holds exactly these items."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def pack_bytes(array: AnyArray) -> bytes:
    """BYTES elements (bytes or text, any shape) in their length-prefixed form, row-major."""
    parts: list[bytes] = []
    for item in np.asarray(array, dtype=object).reshape(-1).tolist():
        data = item if isinstance(item, bytes) else str(item).encode()
        parts.append(_LENGTH.pack(len(data)))
        parts.append(data)
    return b"".join(parts)


def _as_bf16(array: AnyArray) -> AnyArray:
    """The uint16 halves of floats, or of ml_dtypes' bfloat16, which has them already."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else float32_to_bf16(array)


def raw_bytes(source: Tensor) -> bytes | memoryview:
    """The tensor in wire form: little-endian, row-major; a view where the memory already has that
    form.
    """
    if source.is_raw:
        raw: bytes | memoryview = source.array
        return raw
    array = source.numpy()
    if source.datatype is DataType.BYTES:
        return pack_bytes(array)
    wanted = source.datatype.numpy
    if array.dtype != wanted:
        array = _as_bf16(array) if source.datatype is DataType.BF16 else array.astype(wanted)
    if array.size == 0:
        return b""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.reshape(-1).view(np.uint8).data if array.ndim else array.tobytes()
