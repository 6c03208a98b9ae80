"""CUDA through CuPy, for regions of device memory; imported when the first is registered."""

import ctypes
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from penstock_kernels.device import NoDeviceError, cuda_device_count, find_cupy
from penstock_kernels.memory import shared_memory
from penstock_runtime.datatype import DataType
from penstock_runtime.exhausted import memory_exhausted, out_of_memory
from penstock_runtime.memory.cuda import CudaDriver
from penstock_runtime.memory.shared import SegmentError

_TO_DEVICE, _TO_HOST = 1, 2
# cudaHostRegisterPortable
_PORTABLE = 1


def cuda_works() -> bool:
    """Whether this machine has a GPU and CuPy is installed; loads neither."""
    return cuda_device_count() > 0 and importlib.util.find_spec("cupy") is not None


@cache
def find_driver() -> CudaDriver | None:
    """CUDA by CuPy; None where there is none of it."""
    try:
        return CupyDriver(find_cupy())
    except NoDeviceError:
        return None


class CupyDriver:
    """CUDA's runtime and driver."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        # Devices that have read registered memory, and may still do so.
        self._reading: set[int] = set()

    def devices(self) -> int:
        """How many GPUs this process sees."""
        with self._on(None):
            return int(self._runtime.getDeviceCount())

    def open(self, handle: bytes, device: int) -> int:
        """Map the memory that another process exported; its first byte."""
        with self._on(device):
            return int(self._runtime.ipcOpenMemHandle(handle))

    def extent(self, pointer: int, device: int) -> int:
        """How many bytes the mapping holds."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        with self._on(device):
            try:
                library = ctypes.CDLL("libcuda.so.1")
                failed = library.cuMemGetAddressRange_v2(
                    ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(pointer)
                )
            except (OSError, AttributeError) as error:
                raise SegmentError(str(error)) from error
        if failed:
            raise SegmentError(f"cuMemGetAddressRange gives {failed}")
        return base.value + size.value - pointer

    def read(self, pointer: int, size: int, device: int) -> memoryview:
        """A copy of so many bytes on the host."""
        found = np.empty(size, np.uint8)
        if size:
            with self._on(device):
                self._runtime.memcpy(found.ctypes.data, pointer, size, _TO_HOST)
        return found.data

    def write(self, pointer: int, data: bytes | memoryview, device: int) -> None:
        """Copy the bytes to the device."""
        source = np.frombuffer(data, np.uint8)
        if source.size:
            with self._on(device):
                self._runtime.memcpy(pointer, source.ctypes.data, source.size, _TO_DEVICE)
                # From pageable memory the call may return before the last bytes are there.
                self._runtime.streamSynchronize(0)

    def array(
        self,
        pointer: int,
        datatype: DataType,
        shape: tuple[int, ...],
        device: int,
        owner: object,
    ) -> Any:
        """The memory as a CuPy array, which keeps `owner` alive."""
        cuda = self._cupy.cuda
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        with self._on(device):
            memory = cuda.UnownedMemory(pointer, size, owner, device)
            return self._cupy.ndarray(shape, datatype.numpy, cuda.MemoryPointer(memory, 0))

    def close(self, pointer: int, device: int) -> None:
        """Unmap it."""
        with self._on(device):
            self._runtime.ipcCloseMemHandle(pointer)

    def pin(self, address: int, size: int) -> None:
        """Register memory of the host with every GPU's context."""
        with self._on(None):
            self._runtime.hostRegister(address, size, _PORTABLE)

    def unpin(self, address: int) -> None:
        """Forget it, once the copies from there have ended."""
        for device in tuple(self._reading):
            with self._on(device):
                self._runtime.streamSynchronize(0)
        with self._on(None):
            self._runtime.hostUnregister(address)

    def upload(self, pointer: int, datatype: DataType, shape: tuple[int, ...], device: int) -> Any:
        """A new array, filled by the copy engine: on the default stream, which others wait for.
        ResourceExhausted where there is no room for it.
        """
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        with self._on(device), shared_memory(self._cupy):
            made = self._room(shape, datatype)
            self._reading.add(device)
            self._runtime.memcpyAsync(made.data.ptr, pointer, size, _TO_DEVICE, 0)
            return made

    def _room(self, shape: tuple[int, ...], datatype: DataType) -> Any:
        try:
            return self._cupy.empty(shape, datatype.numpy)
        except Exception as error:
            if out_of_memory(error):
                raise memory_exhausted("a GPU ran out of memory for an input") from error
            raise

    @contextmanager
    def _on(self, device: int | None) -> Iterator[None]:
        """The device is current; what CUDA refuses is a SegmentError."""
        try:
            if device is None:
                yield
            else:
                with self._cupy.cuda.Device(device):
                    yield
        except self._runtime.CUDARuntimeError as error:
            raise SegmentError(str(error)) from error
