"""System memory of clients that a GPU reads by itself: mapped and registered with the driver when
the first model on a GPU asks for it, so that no CPU copies its bytes.

The CPU never touches the mapping: the object belongs to the client, who may truncate it. Pages that
are registered stay, whatever becomes of the object.
"""

import logging
import mmap
import threading
from typing import Any

import numpy as np

from penstock_runtime.datatype import DataType
from penstock_runtime.memory.cuda import CudaDriver, FindDriver
from penstock_runtime.memory.posix import PosixSegment
from penstock_runtime.memory.shared import Registration, SegmentError

_log = logging.getLogger("penstock.memory")


class PinnedSegment:
    """A region of system memory that is read and written as any other, and uploaded too."""

    def __init__(self, registration: Registration, inner: PosixSegment, find: FindDriver) -> None:
        self._name = registration.name
        self._size = registration.byte_size
        self._inner = inner
        self._find = find
        self._lock = threading.Lock()
        self._pinned: _Pinned | None = None
        self._refused = False
        self._told = False

    @property
    def device(self) -> None:
        """It is the host's memory."""
        return None

    def read(self, offset: int, size: int) -> memoryview:
        """A copy of so many bytes."""
        return self._inner.read(offset, size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy the bytes there."""
        self._inner.write(offset, data)

    def array(self, *_: object) -> None:
        """Host memory that others may change at any moment is not given out as an array."""
        raise NotImplementedError

    def upload(
        self, offset: int, datatype: DataType, shape: tuple[int, ...], device: int
    ) -> Any | None:
        """An array on the GPU with the bytes, by its copy engine; None where that cannot be, and
        they have to be read. Truncated if the object has become too small.
        """
        pinned = self._pin()
        if pinned is None:
            return None
        size = int(np.prod(shape, dtype=np.int64)) * datatype.size
        self._inner.check(offset + size)
        try:
            return pinned.driver.upload(pinned.address + offset, datatype, shape, device)
        except SegmentError as error:
            self._tell(error)
            return None

    def _tell(self, error: SegmentError) -> None:
        """Once for a region."""
        told, self._told = self._told, True
        if not told:
            _log.warning("bytes of region %r are read by the CPU: %s", self._name, error)

    def close(self) -> None:
        """Let the driver and the mapping go, then the object."""
        with self._lock:
            pinned, self._pinned, self._refused = self._pinned, None, True
        try:
            if pinned is not None:
                pinned.close()
        finally:
            self._inner.close()

    def _pin(self) -> "_Pinned | None":
        with self._lock:
            if self._pinned is None and not self._refused:
                self._pinned = self._new()
                self._refused = self._pinned is None
            return self._pinned

    def _new(self) -> "_Pinned | None":
        driver = self._find()
        if driver is None:
            return None
        try:
            return _Pinned(driver, self._inner, self._size)
        except (SegmentError, OSError, ValueError) as error:
            # Locked memory may be limited; the bytes are copied then, as they would be anyway.
            _log.warning("region %r is not registered with the driver: %s", self._name, error)
            return None

    def __repr__(self) -> str:
        return f"<PinnedSegment {self._inner}{' registered' if self._pinned else ''}>"


class _Pinned:
    """A mapping that the driver knows."""

    def __init__(self, driver: CudaDriver, segment: PosixSegment, size: int) -> None:
        self.driver = driver
        self._map, begin = segment.map(size)
        # Only the address is taken.
        self._base = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        self.address = self._base + begin
        try:
            driver.pin(self._base, len(self._map))
        except BaseException:
            _unmap(self._map)
            raise

    def close(self) -> None:
        self.driver.unpin(self._base)
        _unmap(self._map)


def _unmap(mapping: mmap.mmap) -> None:
    mapping.close()
