"""Laws of batches, graphs and shared memory on a GPU; skipped without one. What the same seams are
told on a CPU is in tests/runtime/test_staging.py, test_torch_graphs.py and test_pinned_regions.py.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pytest
import torch
from tests.runtime.fakes import config
from tests.runtime.kernel_folders import cuda_source, floats, kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.test_batch import member, padded_config
from tests.runtime.test_staging import asking, casting, ragged
from tests.runtime.torch_folders import MODULE, module_folder, net, net_config, rows
from torch.utils.dlpack import from_dlpack

from penstock_kernels.device import cuda_device_count, find_cupy
from penstock_kernels.run import device_runner
from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.backends.kernel.deck import CupyDeck
from penstock_runtime.backends.torch_capture import Capturing
from penstock_runtime.backends.torch_deck import deck_of
from penstock_runtime.backends.torch_graphs import buckets_of, recorder_of
from penstock_runtime.backends.torch_instance import TorchExecutable
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import StagedMerge, staged_merge
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.memory.cupy_driver import find_driver
from penstock_runtime.memory.pinned import PinnedSegment
from penstock_runtime.memory.posix import open_posix
from penstock_runtime.memory.shared import Kind, Registration
from penstock_runtime.request import EMPTY
from penstock_runtime.tensor import to_host

GPUS = cuda_device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPUS == 0, reason="no CUDA device: the driver shows none"),
    pytest.mark.filterwarnings("ignore"),
]
EACH_GPU = pytest.mark.parametrize(
    "gpu", [0, pytest.param(1, marks=pytest.mark.skipif(GPUS < 2, reason="one GPU"))]
)


def _torch(gpu: int) -> Any:
    found = deck_of(torch.device("cuda", gpu))
    assert found is not None
    return found


def _cupy(gpu: int) -> Any:
    return CupyDeck(find_cupy(), device_runner(), gpu)


DECKS = pytest.mark.parametrize("make", [_torch, _cupy])


@contextmanager
def _placed(source: ModelSource, gpu: int = 0) -> Iterator[Executable]:
    _, loaded = load(source)
    try:
        made = loaded.executable(Placement(f"m_gpu{gpu}", "KIND_GPU", gpu))
        yield cast(Executable, made)
        made.close()
    finally:
        loaded.close()


def _answers(one: Executable, **inputs: Any) -> dict[str, Any]:
    return {n: np.array(to_host(a)) for n, a in one.execute(inputs, [context()]).items()}


@EACH_GPU
@DECKS
def test_a_staged_batch_is_the_hosts(make: Callable[[int], Any], gpu: int) -> None:
    """Batch after batch, larger ones and smaller ones, while the last is still on its way."""
    model = padded_config(pad_value=-9.0)
    host, staged = BatchPlan(model, 1), staged_merge(model, make(gpu))
    assert staged is not None
    sizes = [[(1, 5), (2, 0), (1, 33)], [(8, 70_000)] * 6, [(1, 1)], [(3, 8), (2, 9)]]

    found, expected = [], []
    for shapes in sizes:
        members = [member(part, part.shape[1]) for part in ragged(shapes)]
        found.append({n: np.array(to_host(a)) for n, a in staged(members).items()})
        expected.append(host.merge(Batch.of(members)))

    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, array in other.items():
            np.testing.assert_array_equal(one[name], array)


@DECKS
@pytest.mark.parametrize("cast_to", ["FP16", "BF16"])
def test_a_cast_input_is_the_hosts(make: Callable[[int], Any], cast_to: str) -> None:
    model = casting(f"X: {cast_to}")
    values = np.random.default_rng(3).normal(size=(2, 3, 5)) * 10
    values[0, 0, 0] = 1e30
    members = [member(values), member(values[:1])]
    staged = staged_merge(model, make(0))
    assert staged is not None

    found = to_host(staged(members)["X"])

    expected = BatchPlan(model, 1).merge(Batch.of(members))["X"]
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@DECKS
def test_padded_outputs_are_cut_as_on_the_host(make: Callable[[int], Any]) -> None:
    model = padded_config(pad_value=-9.0)
    members = [member(part, part.shape[1]) for part in ragged([(1, 5), (2, 0), (3, 33)])]
    staged = staged_merge(model, make(0))
    assert staged is not None

    _cut_alike(model, members, staged, staged(members)["X"] * 2)


@DECKS
def test_classes_are_ranked_as_on_the_host(make: Callable[[int], Any]) -> None:
    deck, values = make(0), floats(3, 40)
    model = config(batching=DynamicBatching(), dims=(40,))
    staged = staged_merge(model, deck)
    assert staged is not None
    with deck.entered():
        deck.host(values.nbytes)[:] = values.view(np.uint8).ravel()
        there = deck.view(deck.down(values.nbytes), 0, values.shape, DataType.FP32)

    _cut_alike(model, [asking(2, 3), asking(1, 1)], staged, there)


def _cut_alike(model: ModelConfig, members: list[Any], staged: StagedMerge, output: Any) -> None:
    """What the device cuts of Y is what the host does."""
    plan, batch = BatchPlan(model, 1), Batch.of(members)
    said, timings = [EMPTY] * len(members), [None] * len(members)
    given = staged.cut(members, {"Y": output})

    found = plan.split(batch, {"Y": output}, said, timings, given)
    expected = plan.split(batch, {"Y": output}, said, timings)

    assert list(given) == ["Y"]
    for one, other in zip(found, expected, strict=True):
        assert one.outputs[0].array.tolist() == other.outputs[0].array.tolist()


# -- graphs ----------------------------------------------------------------------------------------


def _graphed(root: Path) -> tuple[ModelSource, ModelConfig]:
    graphs = {"optimization": {"cuda": {"graphs": True}}}
    source = module_folder(root, MODULE, net().state_dict())
    return source, net_config(dynamic_batching=DynamicBatching(), extra=graphs)


@EACH_GPU
def test_graphs_answer_as_without(gpu: int, tmp_path: Path) -> None:
    """For every size of batch, in any order, again and again."""
    source, asked = _graphed(tmp_path)
    with _placed(source, gpu) as one:
        instance = cast(TorchExecutable, one)
        plain = {n: _answers(one, x=rows(n))["y"] for n in range(1, 10)}
        recorder = recorder_of(instance.device)
        assert recorder is not None
        instance.capture(buckets_of(asked), recorder)
        graphs = instance.graphed.graphs
        found = [(n, _answers(one, x=rows(n))["y"]) for n in (8, 1, 3, 9, 2, 5, 8, 1)]

    assert graphs == (1, 2, 4, 8)
    for count, answer in found:
        np.testing.assert_allclose(answer, plain[count], rtol=1e-4, atol=1e-5)


def test_a_capture_that_fails_leaves_the_thread_as_it_was() -> None:
    """And the next one succeeds."""
    device = torch.device("cuda", 0)
    capturing, x = Capturing(device), torch.ones(4, device=device)
    before: int = torch.cuda.current_stream(device).cuda_stream
    calls: list[int] = []

    def looks() -> float:
        calls.append(1)
        return float(x.sum()) if len(calls) > 1 else 0.0

    with pytest.raises(RuntimeError):
        capturing.capture(looks, warm_calls=1)
    after = torch.cuda.current_stream(device).cuda_stream
    replay, doubled = capturing.capture(lambda: x * 2)
    x.fill_(3)
    replay()

    assert after == before
    assert doubled.tolist() == [6.0] * 4
    assert (x + 1).tolist() == [4.0] * 4


def test_others_work_while_a_graph_is_captured(tmp_path: Path) -> None:
    """They allocate, copy and wait, and everybody's answers are right."""
    source, asked = _graphed(tmp_path)
    ended, wrong = threading.Event(), list[Any]()
    expected = torch.arange(1 << 20, dtype=torch.float32).mul(2).sum().item()

    def work() -> None:
        try:
            while not ended.is_set():
                held = torch.arange(1 << 20, dtype=torch.float32).pin_memory().cuda()
                found = held.mul(2).double().sum().item()
                if abs(found - expected) > 1e-3 * expected:
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    thread = threading.Thread(target=work)
    with _placed(source) as one:
        instance = cast(TorchExecutable, one)
        recorder = recorder_of(instance.device)
        assert recorder is not None
        thread.start()
        instance.capture(buckets_of(asked), recorder)
        ended.set()
        thread.join(30)
        graphs = instance.graphed.graphs

    assert wrong == []
    assert graphs == (1, 2, 4, 8)


# -- kernels as models, memory of clients ----------------------------------------------------------


@EACH_GPU
def test_a_model_cu_answers_as_its_reference(gpu: int, tmp_path: Path) -> None:
    """And is unloaded and loaded again."""
    values = floats(3, 1000)
    found = []
    for _ in range(2):
        with _placed(cuda_source(tmp_path), gpu) as one:
            found += [_answers(one, X=values)["Y"]]

    for answer in found:
        np.testing.assert_allclose(answer, values * 2.5, rtol=1e-6)


def test_a_kernel_as_a_model_answers_as_on_the_host(tmp_path: Path) -> None:
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "5"}, max_batch_size=8)
    values = floats(3, 900)

    with _placed(source) as one:
        found = _answers(one, VALUES=values)

    expected = np.argsort(-values, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found["INDICES"], expected)


@EACH_GPU
def test_memory_of_a_client_is_read_by_the_gpu(gpu: int) -> None:
    """Small and large parts of it, which stand once the region is gone."""
    name = f"penstock-gpu-test-{uuid4().hex}"
    path, content = Path("/dev/shm", name), np.arange(1 << 22, dtype=np.uint8)
    path.write_bytes(content.tobytes())
    try:
        region = Registration("r", Kind.SYSTEM, content.size - 4096, key=name, offset=4096)
        segment = PinnedSegment(region, open_posix(region), find_driver)
        parts = [(0, 16), (64, 4096), (256, 4_000_000)]
        made = [segment.upload(at, DataType.UINT8, (size,), gpu) for at, size in parts]
        torch.cuda.synchronize(gpu)
        path.write_bytes(os.urandom(content.size))
        segment.close()
    finally:
        path.unlink()

    for (at, size), array in zip(parts, made, strict=True):
        if array is None:
            pytest.skip("the driver registers no memory of a client here")
        tensor = from_dlpack(array)
        assert tensor.device == torch.device("cuda", gpu)
        np.testing.assert_array_equal(tensor.cpu().numpy(), content[4096 + at :][:size])
