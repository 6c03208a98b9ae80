"""The tensors of a traced request, copied while they are there and turned into text by whoever
writes them.
"""

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from penstock_runtime.datatype import DataType
from penstock_runtime.tensor import Tensor, raw_bytes

QUEUE_INPUT, BACKEND_OUTPUT = "TENSOR_QUEUE_INPUT", "TENSOR_BACKEND_OUTPUT"
MOST_BYTES = 1 << 20
MOST_TENSORS = 256

_PREFIX = 4
_log = logging.getLogger("penstock.trace")


class TracedTensor(NamedTuple):
    """A tensor as it was at that moment; `cut` says that `data`, in wire form, is not all of it."""

    activity: str
    name: str
    datatype: DataType
    shape: tuple[int, ...]
    data: bytes
    cut: bool = False


class TensorBag:
    """The tensors of one trace: so many, and so many bytes of them, at most. Not thread-safe."""

    __slots__ = ("_room", "tensors")

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.tensors: list[TracedTensor] = []
        self._room = most_bytes

    @property
    def size(self) -> int:
        """Bytes of data held."""
        return sum(len(tensor.data) for tensor in self.tensors)

    def add(self, activity: str, tensors: Iterable[Tensor]) -> None:
        """Copy these, as far as there is room."""
        for tensor in tensors:
            if len(self.tensors) >= MOST_TENSORS:
                return
            self.tensors.append(self._copy(activity, tensor))

    def _copy(self, activity: str, tensor: Tensor) -> TracedTensor:
        try:
            raw = raw_bytes(tensor)
        except Exception:
            # Whatever is wrong with it is told to the caller, by whoever has to use it.
            _log.debug("a tensor cannot be traced", exc_info=True)
            raw = b""
        data = bytes(raw[: self._room])
        self._room -= len(data)
        cut = len(data) < len(raw)
        return TracedTensor(activity, tensor.name, tensor.datatype, tensor.shape, data, cut)


def text_of(tensor: TracedTensor) -> str:
    """The elements with commas between them; strings in quotes, as Triton writes them."""
    if tensor.datatype is DataType.BYTES:
        return ",".join(_quoted(item) for item in _strings(tensor.data))
    if tensor.datatype is DataType.BF16:
        halves = np.frombuffer(tensor.data[: len(tensor.data) // 2 * 2], np.uint16)
        array = (halves.astype(np.uint32) << 16).view(np.float32)
    else:
        dtype = tensor.datatype.numpy
        array = np.frombuffer(
            tensor.data[: len(tensor.data) // dtype.itemsize * dtype.itemsize], dtype
        )
    if tensor.datatype is DataType.BOOL:
        array = array.astype(np.uint8)
    return ",".join(map(str, array.tolist()))


def _strings(data: bytes) -> Iterable[bytes]:
    at = 0
    while at + _PREFIX <= len(data):
        end = at + _PREFIX + int.from_bytes(data[at : at + _PREFIX], "little")
        if end > len(data):
            return
        yield data[at + _PREFIX : end]
        at = end


def _quoted(item: bytes) -> str:
    text = item.decode(errors="backslashreplace").replace('"', '\\"')
    return f'"{text}"'
