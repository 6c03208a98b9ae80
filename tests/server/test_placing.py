"""Laws of requests that use regions, on their way to the core: what is copied, what stays on its
device, and what bounds it. The device is a fake.
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.region_fakes import DeviceArray, FakeCuda, FakeSegment

from penstock.limits import ByteBudget, CopyBudget, CopyShare
from penstock.placing import RegionPlacing
from penstock_protos.inference import InferParameter, ModelInferRequest
from penstock_runtime.errors import Internal, NotFound, ResourceExhausted, Unavailable
from penstock_runtime.memory.cuda import open_cuda
from penstock_runtime.memory.pinned import PinnedSegment
from penstock_runtime.memory.places import PlacedRequest
from penstock_runtime.memory.posix import open_posix
from penstock_runtime.memory.shared import Kind, RegionTable, Registration
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

Input = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
HANDLE = bytes([1]) * 64


class FakeCore:
    """Keeps what it is given, or refuses it."""

    def __init__(self) -> None:
        self.request: InferRequest | None = None
        self.stream: ResponseStream | None = None
        self.error: Exception | None = None

    def infer(self, request: InferRequest, stream: ResponseStream, model: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.request, self.stream = request, stream


class FakeModel:
    """A model that takes inputs on this device."""

    def __init__(self, device: int | None) -> None:
        self.input_device = device


class House:
    """A core behind regions `host` and `gpu`, the latter on device 1; 1000 bytes of budget."""

    def __init__(self) -> None:
        self.core = FakeCore()
        self.cuda = FakeCuda()
        self.table = RegionTable(8)
        self.host = FakeSegment(256)
        self.budget = ByteBudget(1000)
        self.copies = CopyBudget(self.budget)
        self.table.register(Registration("host", Kind.SYSTEM, 256), lambda: self.host)
        gpu = Registration("gpu", Kind.CUDA, 256, device_id=1)
        self.table.register(gpu, lambda: open_cuda(gpu, HANDLE, lambda: self.cuda))
        core: Any = self.core
        self.placing = RegionPlacing(core, self.table, self.copies)
        self.target = ResponseStream()

    def infer(self, *inputs: Any, device: int | None = 1, outputs: tuple[Any, ...] = ()) -> Any:
        """Hand a request over; the arrays that the core is given, by name."""
        message = ModelInferRequest(model_name="m", inputs=inputs, outputs=outputs)
        request = self.placing.decode(message.SerializeToString(), 1, None, {}, {})
        assert type(request) is PlacedRequest
        model: Any = FakeModel(device)
        self.placing.infer(request, self.target, model)
        assert type(self.core.request) is InferRequest
        return {t.name: t.array for t in self.core.request.inputs}

    def answer(self) -> None:
        """The last answer of the request."""
        assert self.core.stream is not None
        self.core.stream.put(InferResponse("m", "1", outputs=(tensor("Y", np.ones(2, "f4")),)))
        self.core.request = self.core.stream = None


def said(region: str, size: int, offset: int = 0) -> Any:
    return {
        "shared_memory_region": InferParameter(string_param=region),
        "shared_memory_byte_size": InferParameter(int64_param=size),
        "shared_memory_offset": InferParameter(int64_param=offset),
    }


def placed(region: str, size: int = 16, datatype: str = "FP32", shape: Any = (2, 2)) -> Any:
    """An input X there, eight bytes after the region's start."""
    return Input(name="X", datatype=datatype, shape=shape, parameters=said(region, size, 8))


def test_an_input_of_the_host_is_a_copy_that_counts_until_the_answer() -> None:
    """Of its place and nothing else."""
    house = House()
    house.host.data[8:24] = bytes(range(16))

    arrays = house.infer(placed("host"))
    house.host.data[8:24] = bytes(16)
    used = house.copies.used
    house.answer()

    assert bytes(arrays["X"]) == bytes(range(16))
    assert (used, house.copies.used) == (16, 0)


def test_an_input_of_a_device_stays_there_for_a_model_that_executes_there() -> None:
    """Nothing is copied or counted, and the region is mapped for as long as the array is there,
    whatever is answered or unregistered meanwhile.
    """
    house = House()
    house.cuda.exported[HANDLE][8:24] = np.ones(4, np.float32).view(np.uint8)

    array = house.infer(placed("gpu"))["X"]
    house.table.unregister(Kind.CUDA)
    house.answer()
    mapped = house.cuda.closed == 0

    assert isinstance(array, DeviceArray)
    assert array.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert house.copies.used == 0
    del array
    gc.collect()
    assert mapped
    assert house.cuda.closed == 1


@pytest.mark.parametrize("device", [None, 0])
def test_an_input_of_the_host_is_uploaded_for_a_model_on_a_gpu(
    device: int | None, tmp_path: Path
) -> None:
    """By its GPU, so that no copy on the host counts; for a model on the host it is read."""
    (tmp_path / "client").write_bytes(bytes(range(64)))
    house = House()
    made = Registration("mine", Kind.SYSTEM, 64, key="/client")
    driver: Any = house.cuda
    house.table.register(
        made, lambda: PinnedSegment(made, open_posix(made, tmp_path), lambda: driver)
    )

    found = house.infer(placed("mine", datatype="INT32"), device=device)["X"]
    used, pinned = house.copies.used, len(house.cuda.pinned)
    house.answer()
    house.table.close()

    assert isinstance(found, DeviceArray) == (device is not None)
    assert np.asarray(found).tobytes() == bytes(range(8, 24))
    assert (used, pinned) == ((16, 0) if device is None else (0, 1))
    assert house.cuda.pinned == {}


@pytest.mark.parametrize("device", [None, 0])
def test_an_input_of_a_device_is_copied_for_any_other_model(device: int | None) -> None:
    """One on the host, or on another device."""
    house = House()
    house.cuda.exported[HANDLE][8:24] = 5

    array = house.infer(placed("gpu"), device=device)["X"]

    assert bytes(array) == bytes([5]) * 16


@pytest.mark.parametrize(
    "wrong",
    [
        placed("gpu", 20),
        placed("gpu", 12),
        placed("gpu", 16, shape=(-2, -2)),
        placed("gpu", 0, shape=(0, 2)),
        placed("gpu", 16, "BYTES"),
        placed("gpu", 4, "BOOL"),
        placed("gpu", 8, "BF16"),
    ],
)
def test_an_input_that_no_array_can_be_is_copied(wrong: Any) -> None:
    """What is wrong with it is said where it is said of any input."""
    assert isinstance(House().infer(wrong)["X"], memoryview)


def test_numbers_that_lie_askew_on_a_device_are_copied() -> None:
    """A kernel that reads them there would end the context, and with it every model on the GPU."""
    house = House()
    house.cuda.exported[HANDLE][6:22] = np.ones(4, np.float32).view(np.uint8)
    askew = Input(name="X", datatype="FP32", shape=(2, 2), parameters=said("gpu", 16, 6))

    found = house.infer(askew)["X"]

    assert isinstance(found, memoryview)
    assert np.frombuffer(found, np.float32).tolist() == [1.0] * 4


def test_an_output_of_a_device_is_written_there() -> None:
    """From wherever the model left it; the region is let go with the answer."""
    house = House()
    output = Output(name="Y", parameters=said("gpu", 8, 4))

    house.infer(placed("host"), outputs=(output,))
    house.table.unregister(Kind.CUDA)
    house.answer()

    assert house.cuda.exported[HANDLE][4:12].view("f4").tolist() == [1.0, 1.0]
    assert house.cuda.closed == 1


def test_copies_are_bounded_by_what_may_be_in_flight() -> None:
    """The requests themselves count too. Nothing is read of what is refused, and there is room
    again when another is answered.
    """
    house = House()
    house.budget.take(500)
    big = placed("host", 248, shape=(62,))
    house.infer(big, device=None)
    first = house.core.stream
    house.infer(big, device=None)

    with pytest.raises(ResourceExhausted) as refused:
        house.infer(big, device=None)
    assert first is not None
    first.close()
    house.infer(big, device=None)

    assert refused.value.retry_after_ns == 100_000_000
    assert "inputs of 248 bytes in shared memory would exceed the server's 1000" in (
        refused.value.message
    )
    assert house.copies.refused == 1
    assert house.copies.used == 496


def test_what_is_larger_than_the_budget_is_never_copied() -> None:
    """Nobody had to send it: it may be the nothing of a sparse file, and a retry is in vain."""
    share = CopyShare(CopyBudget(ByteBudget(10)))

    with pytest.raises(ResourceExhausted) as refused:
        share.take(11)

    assert refused.value.retry_after_ns == -1


def test_whatever_refuses_a_request_lets_go_of_all_it_had() -> None:
    """A place that is not there beside one that is, memory that fails, a model that refuses."""
    house = House()
    output = Output(name="Y", parameters=said("gpu", 8))
    house.core.error = Unavailable("full")

    with pytest.raises(Unavailable):
        house.infer(placed("host"), outputs=(output,))
    house.cuda.broken = True
    with pytest.raises(Internal):
        house.infer(placed("gpu"), outputs=(output,))
    with pytest.raises(NotFound):
        house.infer(placed("host"), outputs=(output, Output(name="Z", parameters=said("x", 8))))
    house.table.unregister(Kind.CUDA)
    house.table.unregister(Kind.SYSTEM)

    assert house.copies.used == 0
    assert house.host.closed
    assert house.cuda.closed == 1
    assert house.table.open_regions == 0


def test_a_region_that_goes_between_the_look_and_the_use_is_not_there() -> None:
    """The outputs that were in use by then are let go."""
    house = House()
    message = ModelInferRequest(
        model_name="m",
        outputs=(
            Output(name="Y", parameters=said("host", 8)),
            Output(name="Z", parameters=said("gpu", 8)),
        ),
    )
    request = house.placing.decode(message.SerializeToString(), 1, None, {}, {})
    house.table.unregister(Kind.CUDA)

    with pytest.raises(NotFound):
        house.placing.infer(request, house.target)
    house.table.unregister(Kind.SYSTEM)

    assert house.host.closed


def test_an_ordinary_request_goes_straight_to_the_core() -> None:
    """With its own stream."""
    house = House()
    request = InferRequest("m", ())

    house.placing.infer(request, house.target)

    assert house.core.request is request
    assert house.core.stream is house.target
