"""Memory of a GPU that another process has exported, as the memory of a region.

Everything that asks the device goes through a `CudaDriver`, so that all that is decided here holds
with a fake one too; `cupy_driver` has the real one.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported
from penstock_runtime.memory.shared import Registration, SegmentError

_log = logging.getLogger("penstock.memory")

HANDLE_BYTES = 64
"""The size of a cudaIpcMemHandle_t."""


class CudaDriver(Protocol):
    """What is asked of CUDA. Pointers are numbers; every method raises SegmentError if CUDA
    refuses.
    """

    def devices(self) -> int:
        """How many GPUs this process sees."""

    def open(self, handle: bytes, device: int) -> int:
        """Map the memory that another process exported; its first byte."""

    def extent(self, pointer: int, device: int) -> int:
        """How many bytes the mapping holds."""

    def read(self, pointer: int, size: int, device: int) -> memoryview:
        """A copy of so many bytes on the host, once all work on the default stream is done."""

    def write(self, pointer: int, data: bytes | memoryview, device: int) -> None:
        """Copy the bytes to the device; they are there when this returns."""

    def array(
        self,
        pointer: int,
        datatype: DataType,
        shape: tuple[int, ...],
        device: int,
        owner: object,
    ) -> Any:
        """The memory as an array on the device, which keeps `owner` alive."""

    def close(self, pointer: int, device: int) -> None:
        """Unmap it."""

    def pin(self, address: int, size: int) -> None:
        """Register memory of the host, so that GPUs read it by themselves."""

    def unpin(self, address: int) -> None:
        """Forget what was registered there, once nothing reads it any more."""

    def upload(self, pointer: int, datatype: DataType, shape: tuple[int, ...], device: int) -> Any:
        """Registered memory as an array on the device, there for whatever is enqueued later."""


FindDriver = Callable[[], CudaDriver | None]


class CudaSegment:
    """The memory of one handle, mapped once, whoever uses it."""

    __slots__ = ("_driver", "_pointer", "device")

    def __init__(self, driver: CudaDriver, pointer: int, device: int) -> None:
        self._driver = driver
        self._pointer = pointer
        self.device: int | None = device

    @property
    def _on(self) -> int:
        assert self.device is not None
        return self.device

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of so many bytes on the host."""
        return self._driver.read(self._pointer + offset, size, self._on)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy the bytes to the device."""
        self._driver.write(self._pointer + offset, data, self._on)

    def array(self, offset: int, datatype: DataType, shape: tuple[int, ...], owner: object) -> Any:
        """The memory itself, where it is."""
        return self._driver.array(self._pointer + offset, datatype, shape, self._on, owner)

    def close(self) -> None:
        """Unmap the memory."""
        self._driver.close(self._pointer, self._on)

    def __repr__(self) -> str:
        return f"<CudaSegment on device {self.device}>"


def open_cuda(registration: Registration, handle: bytes, find: FindDriver) -> CudaSegment:
    """The memory of a handle. InvalidArgument for a handle, a device or a size that is wrong,
    Unsupported where there is no CUDA.
    """
    what = f"failed to register shared memory region '{registration.name}'"
    driver = find()
    if driver is None:
        raise Unsupported(
            f"{what}: CUDA shared memory needs a CUDA device and CuPy, which this server does not "
            "have",
            reason="NOT_AVAILABLE",
        )
    if len(handle) != HANDLE_BYTES:
        raise InvalidArgument(
            f"{what}: its CUDA handle has {len(handle)} bytes, expected {HANDLE_BYTES}"
        )
    try:
        return _opened(registration, handle, driver)
    except SegmentError as error:
        _log.warning("%s: %s", what, error)
        raise InvalidArgument(
            f"{what}: its CUDA handle cannot be opened on device {registration.device_id}"
        ) from None


def _opened(registration: Registration, handle: bytes, driver: CudaDriver) -> CudaSegment:
    device, size, count = registration.device_id, registration.byte_size, driver.devices()
    what = f"failed to register shared memory region '{registration.name}'"
    if not 0 <= device < count:
        raise InvalidArgument(f"{what}: there is no device {device}, this server has {count}")
    pointer = driver.open(handle, device)
    try:
        if not 0 < size <= driver.extent(pointer, device):
            raise InvalidArgument(f"{what}: invalid args")
    except BaseException:
        driver.close(pointer, device)
        raise
    return CudaSegment(driver, pointer, device)
