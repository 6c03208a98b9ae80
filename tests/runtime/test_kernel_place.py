"""Laws of kernel models on GPUs, on a CuPy whose arrays are NumPy's: each instance works on its own
GPU, on the stream that torch works on, and has finished when it answers.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.kernels.gpu_memory import FakeTorch
from tests.runtime.cupy_fakes import FakeCupy, FakeRunner, FakeStream, on_gpus
from tests.runtime.kernel_folders import answer, cuda_source, floats, kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import member

from penstock_kernels.nvrtc import NvrtcError, NvrtcMissingError
from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelInput
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument, Unsupported


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """This machine seems to have GPUs."""
    made = FakeCupy()
    on_gpus(monkeypatch, made, FakeRunner(made))
    return made


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


def test_images_of_any_size_go_down_as_they_came_and_are_one_launch(
    cupy: FakeCupy, tmp_path: Path
) -> None:
    """Beside the slab nothing is allocated or copied but what the kernel fills."""
    options = {"kernel": "image_normalise", "height": "4", "width": "6", "mean": "0.5"}
    config, loaded = load(kernel_source(tmp_path, options, max_batch_size=8))
    made: Any = loaded.executable(Placement("m_gpu2", "KIND_GPU", 2))
    random = np.random.default_rng(1)
    sizes = ((1, 3, 5, 3), (2, 1, 1, 3), (1, 9, 2, 3))
    members = [
        member({"IMAGE": random.integers(0, 256, size, np.uint8)}, size[0]) for size in sizes
    ]
    staged = staged_merge(config, made.deck, made.tables)
    assert staged is not None

    merged = staged(members)
    cupy.asked.clear()
    before = cupy.of_pool
    found = made.execute(merged, [context()])["PIXELS"]

    assert cupy.asked == [("run", 2), ("end", 2, 7)]
    assert cupy.of_pool - before == found.nbytes
    on_host = answer(
        kernel_source(tmp_path, options, max_batch_size=8),
        IMAGE=np.concatenate([one.arrays["IMAGE"].reshape(-1) for one in members]),
        IMAGE_SHAPE=np.array([[3, 5, 3], [1, 1, 3], [1, 1, 3], [9, 2, 3]], np.int32),
    )
    assert found.tobytes() == on_host["PIXELS"].tobytes()
