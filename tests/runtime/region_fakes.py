"""Fakes of the memory behind regions: of a host's, and of a GPU's."""

import ctypes
from typing import Any

import numpy as np

from penstock_runtime.datatype import DataType
from penstock_runtime.memory.shared import SegmentError, Truncated


class FakeSegment:
    """Bytes of this process; closing it twice, or using it once it is closed, is a mistake."""

    device: int | None = None

    def __init__(self, size: int = 64) -> None:
        self.data = bytearray(size)
        self.closed = False

    def read(self, offset: int, size: int) -> memoryview:
        self._check(offset + size)
        return memoryview(bytes(self.data[offset : offset + size]))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._check(offset + len(data))
        self.data[offset : offset + len(data)] = data

    def array(self, offset: int, datatype: DataType, shape: tuple[int, ...], owner: object) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def _check(self, end: int) -> None:
        assert not self.closed
        if end > len(self.data):
            raise Truncated


class DeviceArray(np.ndarray[Any, Any]):
    """Stands for an array on a device; keeps whoever owns its memory."""

    owner: object = None


class FakeCuda:
    """Two GPUs and what other processes have exported from them: handles by their first byte."""

    def __init__(self) -> None:
        self.exported = {bytes([number]) * 64: np.zeros(256, np.uint8) for number in (1, 2)}
        self.mapped: dict[int, bytes] = {}
        self.pinned: dict[int, int] = {}
        self.opened = 0
        self.closed = 0
        self.broken = False

    def devices(self) -> int:
        return 2

    def open(self, handle: bytes, device: int) -> int:
        if handle not in self.exported:
            raise SegmentError("cudaErrorInvalidValue: invalid argument")
        self.opened += 1
        pointer = self.opened << 20
        self.mapped[pointer] = handle
        return pointer

    def extent(self, pointer: int, device: int) -> int:
        return len(self._memory(pointer))

    def read(self, pointer: int, size: int, device: int) -> memoryview:
        return memoryview(self._memory(pointer)[:size].tobytes())

    def write(self, pointer: int, data: bytes | memoryview, device: int) -> None:
        self._memory(pointer)[: len(data)] = np.frombuffer(data, np.uint8)

    def array(
        self, pointer: int, datatype: DataType, shape: tuple[int, ...], device: int, owner: object
    ) -> Any:
        count = int(np.prod(shape)) * datatype.size
        values = self._memory(pointer)[:count].view(datatype.numpy).reshape(shape)
        made = values.view(DeviceArray)
        made.owner = owner
        return made

    def pin(self, address: int, size: int) -> None:
        self.pinned[address] = size

    def unpin(self, address: int) -> None:
        del self.pinned[address]

    def upload(self, pointer: int, datatype: DataType, shape: tuple[int, ...], device: int) -> Any:
        made = np.empty(shape, datatype.numpy)
        ctypes.memmove(made.ctypes.data, pointer, made.nbytes)
        return made.view(DeviceArray)

    def close(self, pointer: int, device: int) -> None:
        del self.mapped[pointer]
        self.closed += 1

    def _memory(self, pointer: int) -> Any:
        if self.broken:
            raise SegmentError("cudaErrorIllegalAddress")
        base = pointer >> 20 << 20
        return self.exported[self.mapped[base]][pointer - base :]
