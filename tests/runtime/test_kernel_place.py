"""Laws of kernel models on GPUs, on a CuPy whose arrays are NumPy's: each instance works on its own
GPU, on the stream that torch works on, and has finished when it answers.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.kernels.gpu_memory import CupyMemory, FakeTorch
from tests.runtime.kernel_folders import answer, cuda_source, floats, kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import member

from penstock_kernels import run as kernels
from penstock_kernels.declare import Kernel
from penstock_kernels.nvrtc import NvrtcError, NvrtcMissingError
from penstock_kernels.run import Reference
from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.backends.kernel import place
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelInput
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, ResourceExhausted, Unsupported


class FakeStream:
    """What CuPy makes of a stream of somebody else's."""

    made: list[int] = []

    @staticmethod
    @contextmanager
    def from_external(stream: Any) -> Iterator[None]:
        FakeStream.made.append(stream.__cuda_stream__()[1])
        yield


class OnDevice(np.ndarray[Any, Any]):
    """An array with the two copies of CuPy's, which holds what was allocated for it."""

    memory: Any = None

    def set(self, host: Any, stream: Any) -> None:
        assert stream is not None
        self[...] = host

    def get(self) -> Any:
        return np.array(self)


class FakeCupy(CupyMemory):
    """As much of CuPy as a place uses: arrays of the host, and a log of what was asked where."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Any, ...]] = []
        self.cuda = SimpleNamespace(
            Device=self.device,
            Stream=FakeStream,
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            runtime=SimpleNamespace(
                streamSynchronize=lambda stream: self.asked.append(("end", self.current, stream)),
                getDevice=lambda: self.current,
            ),
            PinnedMemory=bytearray,
            PinnedMemoryPointer=lambda memory, offset: memoryview(memory)[offset:],
            **self.allocation(),
        )
        self.ascontiguousarray, self.from_dlpack = np.ascontiguousarray, np.from_dlpack

    def empty(self, shape: Any, dtype: Any) -> Any:
        made = np.empty(shape, dtype).view(OnDevice)
        made.memory = self.alloc(made.nbytes)
        return made

    def zeros(self, shape: Any, dtype: Any) -> Any:
        made = self.empty(shape, dtype)
        made[...] = 0
        return made

    def asarray(self, array: Any) -> Any:
        if isinstance(array, OnDevice):
            return array
        made = self.empty(np.shape(array), array.dtype)
        made[...] = array
        return made

    @contextmanager
    def device(self, number: int) -> Iterator[None]:
        before, self.current = self.current, number
        try:
            yield
        finally:
            self.current = before


class FakeRunner:
    """Runs references, and writes down on which GPU."""

    name = "cuda"

    def __init__(self, cupy: FakeCupy, refuses: Exception | None = None) -> None:
        self._cupy = cupy
        self._refuses = refuses

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        self._cupy.asked.append(("run", self._cupy.current))
        Reference().run(kernel, arguments)

    def load(self, kernel: Kernel) -> None:
        self._cupy.asked.append(("load", self._cupy.current))
        if self._refuses is not None:
            raise self._refuses

    def forget(self, kernel: Kernel) -> None:
        self._cupy.asked.append(("forget", kernel.source.startswith("model.cu#")))

    def stream(self) -> int:
        return 7


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """This machine seems to have GPUs."""
    made = FakeCupy()
    on_gpus(monkeypatch, made, FakeRunner(made))
    return made


def on_gpus(patch: pytest.MonkeyPatch, cupy: FakeCupy, runner: FakeRunner) -> None:
    patch.setattr(place, "find_cupy", lambda: cupy)
    patch.setattr(kernels, "device_runner", lambda: runner)


def answers(source: ModelSource, *gpus: int, **inputs: Any) -> list[dict[str, Any]]:
    """What an instance on each of these GPUs answers."""
    _, loaded = load(source)
    try:
        made: list[Any] = [loaded.executable(Placement(f"m_gpu{n}", "KIND_GPU", n)) for n in gpus]
        found = [dict(one.execute(inputs, [context()])) for one in made]
        for one in made:
            one.close()
    finally:
        loaded.close()
    return found


def test_each_instance_works_on_its_own_gpu_and_waits_for_it(
    cupy: FakeCupy, tmp_path: Path
) -> None:
    """The kernel is loaded before the first request; no GPU is current afterwards."""
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=8)
    values = floats(3, 9)

    found = answers(source, 1, 0, VALUES=values)

    assert cupy.asked == [
        *(("load", 1), ("load", 0)),
        *(("run", 1), ("end", 1, 7), ("run", 0), ("end", 0, 7)),
    ]
    assert cupy.current is None
    on_host = answer(source, VALUES=values)
    for one in found:
        np.testing.assert_array_equal(one["INDICES"], on_host["INDICES"])


def test_a_model_cu_needs_no_reference_there_and_is_unloaded_with_its_model(
    cupy: FakeCupy, tmp_path: Path
) -> None:
    """Whoever loads it; here the reference computes what a GPU would."""
    source = cuda_source(tmp_path)

    (found,) = answers(source, 3, X=floats(2, 5))

    np.testing.assert_allclose(found["Y"], floats(2, 5) * 2.5)
    assert cupy.asked == [("load", 3), ("run", 3), ("end", 3, 7), ("forget", True)]


def test_tensors_of_torch_are_taken_as_they_are(cupy: FakeCupy, tmp_path: Path) -> None:
    """By DLPack, without a copy."""
    source = kernel_source(tmp_path, {"kernel": "quantise", "group": "4"}, max_batch_size=8)

    (found,) = answers(source, 0, VALUES=torch.ones(2, 8))

    assert (found["PACKED"] == 127).all()


def test_copies_are_on_the_stream_that_torch_works_on(
    cupy: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has one of its own in this thread; a CuPy before 14 has another name for it."""
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=8)
    in_use = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", in_use)
    monkeypatch.setattr(FakeStream, "made", [])

    for in_use.current_stream in (5, 0):
        answers(source, 0, VALUES=floats(1, 4))
    made = list(FakeStream.made)
    older, in_use.current_stream = SimpleNamespace(), 6
    cupy.cuda.Stream, cupy.cuda.ExternalStream = older, cupy.device
    answers(source, 0, VALUES=floats(1, 4))

    assert made == [5]
    assert cupy.asked[-1] == ("end", 6, 7)


def test_arrays_are_of_torchs_memory_and_go_back_to_it(
    cupy: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch is in use on a GPU: inputs, what a kernel fills, what a batch is staged in."""
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=8)
    torchs = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", torchs)
    config, loaded = load(source)
    made: Any = loaded.executable(Placement("m_gpu1", "KIND_GPU", 1))
    staged = staged_merge(config, made.deck)
    assert staged is not None

    merged = staged([member({"VALUES": floats(3, 9)}, 3)])
    slab = torchs.memory_allocated(1)
    found = made.execute(merged, [context()])
    with_outputs = torchs.memory_allocated(1)
    del found
    without = torchs.memory_allocated(1)
    del merged, staged

    assert slab >= 3 * 9 * 4
    assert with_outputs == slab + 3 * 2 * (4 + 4)
    assert without == slab
    assert torchs.held == {}
    assert cupy.of_pool == 0


def test_no_memory_left_on_the_gpu_is_an_answer_of_its_own(
    cupy: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says to try with less, or later; the next execution is as good as any."""
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=8)
    torchs = FakeTorch(room=100)
    monkeypatch.setitem(sys.modules, "torch", torchs)
    _, loaded = load(source)
    made: Any = loaded.executable(Placement("m_gpu1", "KIND_GPU", 1))

    with pytest.raises(ResourceExhausted, match=r"^model 'm' ran out of memory$") as said:
        made.execute({"VALUES": floats(5, 9)}, [context()])
    del said
    found = made.execute({"VALUES": floats(1, 9)}, [context()])

    assert found["SCORES"].shape == (1, 2)


@pytest.mark.parametrize(
    ("refuses", "kind", "said"),
    [
        (
            NvrtcError('model.cu for sm_90: model.cu(3): error: identifier "q" is undefined'),
            InvalidArgument,
            'does not compile: line 3: identifier "q" is undefined',
        ),
        (NvrtcMissingError("no NVRTC"), Unsupported, "NVRTC, which would compile it, is not"),
    ],
)
def test_what_a_gpu_cannot_load_is_said(
    refuses: Exception,
    kind: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An architecture may refuse what the one of the check has taken."""
    cupy = FakeCupy()
    on_gpus(monkeypatch, cupy, FakeRunner(cupy, refuses))

    with pytest.raises(kind, match=said):
        answers(cuda_source(tmp_path), 0, X=floats(1, 4))


def test_batches_are_put_together_on_the_gpu_of_their_instance(
    cupy: FakeCupy, tmp_path: Path
) -> None:
    """One slab goes down; texts of different lengths are padded there, with the batcher's mask."""
    rules = LengthBatching(input=("STATES",), mask_name="MASK", max_padding=1.0)
    parameters = {"kernel": "mean_pool", "width": "4"}
    states = (ModelInput("STATES", DataType.FP32, (-1, 4)),)
    source = kernel_source(
        tmp_path,
        parameters,
        max_batch_size=8,
        input=states,
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    config, loaded = load(source)
    made: Any = loaded.executable(Placement("m_gpu2", "KIND_GPU", 2))
    texts = [floats(1, n, 4) for n in (3, 7, 1)]
    members = [member({"STATES": text}, 1, text.shape[1]) for text in texts]
    staged = staged_merge(config, made.deck)
    assert staged is not None
    cupy.asked.clear()

    merged = [staged(members) for _ in range(2)]
    found = made.execute(merged[1], [context()])["EMBEDDING"]

    assert merged[1]["STATES"].shape == (3, 7, 4)
    assert merged[1]["MASK"].sum() == 11
    assert {line[1] for line in cupy.asked} == {2}
    means = np.concatenate([text.mean(axis=1) for text in texts])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
