"""Laws of the driver that CuPy is, on a module that stands for CuPy and has the host's memory for a
device's: what is asked of CUDA, and how its refusals come back.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.kernels.gpu_memory import CupyMemory, FakeTorch

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import ResourceExhausted
from penstock_runtime.memory.cupy_driver import CupyDriver
from penstock_runtime.memory.shared import SegmentError


class CudaError(Exception):
    """What CuPy raises."""


class FakeCupy(CupyMemory):
    """The parts of CuPy that are used, and a log of what was asked on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = np.arange(64, dtype=np.uint8)
        self.asked: list[tuple[Any, ...]] = []
        self.current = 0
        self.cuda = SimpleNamespace(
            runtime=self,
            Device=self.device,
            UnownedMemory=lambda *parts: ("memory", *parts),
            MemoryPointer=lambda memory, offset: ("pointer", memory, offset),
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            **self.allocation(),
        )
        self.CUDARuntimeError = CudaError

    @contextmanager
    def device(self, number: int) -> Iterator[None]:
        before, self.current = self.current, number
        yield
        self.current = before

    def ndarray(self, shape: tuple[int, ...], dtype: Any, memptr: Any) -> Any:
        return shape, dtype, memptr

    def getDevice(self) -> int:  # noqa: N802 - CuPy's name
        return self.current or 0

    def getDeviceCount(self) -> int:  # noqa: N802 - CuPy's name
        return 3

    def ipcOpenMemHandle(self, handle: bytes) -> int:  # noqa: N802 - CuPy's name
        self.asked.append(("open", self.current))
        if handle == b"bad":
            raise CudaError("cudaErrorInvalidValue")
        return int(self.memory.ctypes.data)

    def ipcCloseMemHandle(self, pointer: int) -> None:  # noqa: N802 - CuPy's name
        self.asked.append(("close", self.current, pointer))

    def memcpy(self, to: int, source: int, size: int, kind: int) -> None:
        self.asked.append(("memcpy", self.current, kind))
        ctypes.memmove(to, source, size)

    def memcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> None:  # noqa: N802
        self.asked.append(("memcpyAsync", self.current, kind, stream))
        ctypes.memmove(to, source, size)

    def hostRegister(self, pointer: int, size: int, flags: int) -> None:  # noqa: N802
        self.asked.append(("register", size, flags))
        if size > 1 << 30:
            raise CudaError("cudaErrorMemoryAllocation")

    def hostUnregister(self, pointer: int) -> None:  # noqa: N802
        self.asked.append(("unregister", pointer))

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        host = np.empty(shape, dtype)
        data = SimpleNamespace(ptr=host.ctypes.data)
        return SimpleNamespace(host=host, data=data, memory=self.alloc(host.nbytes))

    def streamSynchronize(self, stream: int) -> None:  # noqa: N802 - CuPy's name
        self.asked.append(("synchronize", self.current, stream))


def test_memory_is_mapped_copied_and_unmapped_on_its_device() -> None:
    """The device is current for each of these and not after it; what was written is there."""
    cupy = FakeCupy()
    driver = CupyDriver(cupy)

    pointer = driver.open(b"handle", 2)
    found = driver.read(pointer + 4, 3, 2)
    driver.write(pointer, memoryview(b"abcd")[1:], 2)
    driver.close(pointer, 2)

    assert bytes(found) == bytes((4, 5, 6))
    assert cupy.memory[:4].tobytes() == b"bcd\x03"
    assert [line[:2] for line in cupy.asked] == [
        *(("open", 2), ("memcpy", 2), ("memcpy", 2), ("synchronize", 2), ("close", 2))
    ]
    # From the device and to it, in CUDA's numbers.
    assert [line[2] for line in cupy.asked if line[0] == "memcpy"] == [2, 1]
    assert cupy.current == 0
    assert driver.devices() == 3


def test_nothing_is_copied_without_a_call() -> None:
    """A tensor of no elements has no address."""
    cupy = FakeCupy()

    CupyDriver(cupy).write(0, b"", 0)

    assert CupyDriver(cupy).read(0, 0, 0).nbytes == 0
    assert cupy.asked == []


def test_an_array_is_of_the_memory_itself_and_keeps_its_owner() -> None:
    """CuPy lets go of the owner with the last array."""
    owner = object()

    shape, dtype, pointer = CupyDriver(FakeCupy()).array(1024, DataType.FP16, (2, 3), 1, owner)

    assert (shape, dtype) == ((2, 3), np.float16)
    assert pointer == ("pointer", ("memory", 1024, 12, owner, 1), 0)


def test_what_cuda_refuses_is_an_error_of_the_segment() -> None:
    """Whoever asked need not know CuPy."""
    with pytest.raises(SegmentError, match="cudaErrorInvalidValue"):
        CupyDriver(FakeCupy()).open(b"bad", 0)


def test_the_extent_is_what_the_driver_says_of_the_allocation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the pointer to the allocation's end; without a driver it is an error."""
    codes = [0, 201]

    class FakeDriver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuMemGetAddressRange_v2(self, base: Any, size: Any, pointer: Any) -> int:  # noqa: N802
            base._obj.value, size._obj.value = 1000, 500
            assert pointer.value == 1100
            return codes.pop(0)

    def no_library(name: str) -> Any:
        raise OSError(f"{name}: not found")

    driver = CupyDriver(FakeCupy())
    monkeypatch.setattr(ctypes, "CDLL", FakeDriver)
    extent = driver.extent(1100, 0)
    with pytest.raises(SegmentError, match="201"):
        driver.extent(1100, 0)
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    with pytest.raises(SegmentError, match="not found"):
        driver.extent(1100, 0)

    assert extent == 400


def test_registered_memory_goes_up_by_the_copy_engine() -> None:
    """On the default stream of the device, without waiting, which is done before the memory is let
    go; a refusal is a SegmentError.
    """
    cupy = FakeCupy()
    driver = CupyDriver(cupy)
    source = np.arange(6, dtype=np.float32)

    driver.pin(source.ctypes.data, source.nbytes)
    made = driver.upload(source.ctypes.data + 4, DataType.FP32, (2, 2), 1)
    driver.unpin(source.ctypes.data)

    assert made.host.tolist() == [[1, 2], [3, 4]]
    assert cupy.asked == [
        ("register", 24, 1),
        ("memcpyAsync", 1, 1, 0),
        ("synchronize", 1, 0),
        ("unregister", source.ctypes.data),
    ]
    with pytest.raises(SegmentError, match="cudaErrorMemoryAllocation"):
        driver.pin(0, 1 << 31)


def test_what_goes_up_lies_in_torchs_memory_where_torch_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the stream that it is copied on; none left there is the caller's to know."""
    cupy, torch = FakeCupy(), FakeTorch(room=20)
    monkeypatch.setitem(sys.modules, "torch", torch)
    source = np.arange(6, dtype=np.float32)

    made = CupyDriver(cupy).upload(source.ctypes.data, DataType.FP32, (2, 2), 1)
    with pytest.raises(ResourceExhausted, match="ran out of memory"):
        CupyDriver(cupy).upload(source.ctypes.data, DataType.FP32, (2, 2), 1)

    assert made.host.tolist() == [[0, 1], [2, 3]]
    assert list(torch.held.values()) == [(16, 1, 0)]
