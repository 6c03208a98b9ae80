"""Laws of device memory as the memory of a region, on a driver that stands for CUDA's."""

import gc

import pytest
from tests.runtime.region_fakes import FakeCuda

from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.python import PythonBackend
from penstock_runtime.backends.torch import TorchBackend
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, InvalidArgument, Unsupported
from penstock_runtime.memory.cuda import CudaDriver, CudaSegment, open_cuda
from penstock_runtime.memory.cupy_driver import cuda_works, find_driver
from penstock_runtime.memory.places import Place
from penstock_runtime.memory.shared import Kind, RegionTable, Registration
from penstock_runtime.starting import input_device

HANDLE = bytes([1]) * 64


def opened(
    cuda: CudaDriver | None, handle: bytes = HANDLE, size: int = 256, device: int = 0
) -> CudaSegment:
    """The segment of such a registration."""
    made = Registration("g", Kind.CUDA, size, device_id=device)
    return open_cuda(made, handle, lambda: cuda)


def table_of(cuda: FakeCuda, size: int = 256, device: int = 1) -> RegionTable:
    """A table with the memory of the handle as region g."""
    table = RegionTable(4)
    made = Registration("g", Kind.CUDA, size, device_id=device)
    table.register(made, lambda: open_cuda(made, HANDLE, lambda: cuda))
    return table


@pytest.mark.parametrize("length", [0, 1, 63, 65])
def test_a_handle_has_64_bytes(length: int) -> None:
    """Any other is not shown to the driver."""
    cuda = FakeCuda()

    with pytest.raises(InvalidArgument, match=f"its CUDA handle has {length} bytes, expected 64"):
        opened(cuda, bytes(length))

    assert cuda.opened == 0


@pytest.mark.parametrize("device", [-1, 2, 1 << 62])
def test_a_device_is_one_that_the_server_has(device: int) -> None:
    """The text says how many there are."""
    cuda = FakeCuda()

    with pytest.raises(InvalidArgument, match=f"there is no device {device}, this server has 2"):
        opened(cuda, device=device)

    assert cuda.opened == 0


def test_a_handle_that_cuda_does_not_know_is_refused_without_what_it_said() -> None:
    """That is for the log."""
    with pytest.raises(InvalidArgument) as refused:
        opened(FakeCuda(), bytes(64))

    assert refused.value.message == (
        "failed to register shared memory region 'g': its CUDA handle cannot be opened on device 0"
    )


@pytest.mark.parametrize("size", [0, 257, 1 << 63])
def test_a_region_is_not_larger_than_what_was_exported(size: int) -> None:
    """What was mapped for the look is unmapped."""
    cuda = FakeCuda()

    with pytest.raises(InvalidArgument) as refused:
        opened(cuda, size=size)

    assert refused.value.message == "failed to register shared memory region 'g': invalid args"
    assert (cuda.opened, cuda.closed) == (1, 1)


def test_without_cuda_there_is_none() -> None:
    """Unimplemented, with what is missing."""
    with pytest.raises(Unsupported, match="needs a CUDA device and CuPy"):
        opened(None)


@pytest.mark.skipif(cuda_works(), reason="this machine has CUDA and CuPy")
def test_a_machine_without_cuda_is_found_to_have_none() -> None:
    """And nothing of it is imported."""
    assert find_driver() is None


def test_a_region_is_mapped_once_and_unmapped_by_the_last_who_uses_it() -> None:
    """However many use it, and whenever it is unregistered."""
    cuda = FakeCuda()
    table = table_of(cuda)
    uses = [table.use(Place("g", 8, 8 * number)) for number in range(3)]
    table.unregister(Kind.CUDA)
    closed = []

    for use in uses:
        use.write(b"12345678")
        assert bytes(use.read()) == b"12345678"
        use.close()
        closed.append(cuda.closed)

    assert cuda.opened == 1
    assert closed == [0, 0, 1]
    assert cuda.exported[HANDLE][:24].tobytes() == b"12345678" * 3


def test_an_array_keeps_the_region_mapped_for_as_long_as_anyone_has_it() -> None:
    """A model may execute with it after its caller is gone."""
    cuda = FakeCuda()
    table = table_of(cuda)
    array = table.use(Place("g", 16, 4)).array(DataType.FP32, (2, 2))
    view = array[1:]
    table.unregister(Kind.CUDA)
    array[:] = 3
    del array
    gc.collect()
    held = cuda.closed

    del view
    gc.collect()

    assert held == 0
    assert cuda.closed == 1
    assert cuda.exported[HANDLE][4:20].view("f4").tolist() == [3, 3, 3, 3]


def test_a_fault_of_the_device_is_told_without_its_words() -> None:
    """Reading, writing and taking the memory as an array alike."""
    cuda = FakeCuda()
    use = table_of(cuda).use(Place("g", 4))
    cuda.broken = True

    with pytest.raises(Internal, match=r"^shared memory region 'g' cannot be read$"):
        use.read()
    with pytest.raises(Internal, match=r"^shared memory region 'g' cannot be written$"):
        use.write(b"1234")
    with pytest.raises(Internal, match=r"^shared memory region 'g' cannot be read$"):
        use.array(DataType.FP32, (1,))


def test_inputs_stay_on_a_device_only_where_all_of_the_model_is_there() -> None:
    """One GPU, a backend that takes its arrays, and no merging with requests from the host."""
    torch = TorchBackend()
    python = PythonBackend(torch)
    gpu = [Placement("a", "KIND_GPU", 1), Placement("b", "KIND_GPU", 1)]
    alone, batched = (
        ModelConfig(name="m"),
        ModelConfig(name="m", dynamic_batching=DynamicBatching()),
    )

    assert input_device(alone, gpu, torch) == 1
    assert input_device(alone, gpu, python) is None
    assert input_device(batched, gpu, torch) is None
    assert input_device(alone, [Placement("c")], torch) is None
    assert input_device(alone, [*gpu, Placement("d", "KIND_GPU", 0)], torch) is None
    assert input_device(alone, [*gpu, Placement("c")], torch) is None
