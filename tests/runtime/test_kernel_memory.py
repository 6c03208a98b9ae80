"""Laws of the memory of kernel models on GPUs: it is torch's where torch is in use there, and what
finds no room takes nothing with it. On a CuPy and a torch that keep books.
"""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.kernels.gpu_memory import FakeTorch, OutOfMemoryError
from tests.runtime.cupy_fakes import FakeCupy, FakeRunner, on_gpus
from tests.runtime.kernel_folders import floats, kernel_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import member

from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.torch_deck import TorchDeck
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.errors import ResourceExhausted


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """This machine seems to have GPUs."""
    made = FakeCupy()
    on_gpus(monkeypatch, made, FakeRunner(made))
    return made


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


def test_a_batch_that_finds_no_room_leaves_room_for_the_next(
    cupy: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slab is on both sides as large, or on neither."""
    source = kernel_source(tmp_path, {"kernel": "top_k", "k": "2"}, max_batch_size=1 << 20)
    torchs = FakeTorch(room=3 << 20)
    monkeypatch.setitem(sys.modules, "torch", torchs)
    config, loaded = load(source)
    made: Any = loaded.executable(Placement("m_gpu0", "KIND_GPU", 0))
    staged = staged_merge(config, made.deck)
    assert staged is not None
    small, large = (member({"VALUES": floats(rows, 4)}, rows) for rows in (3, 1 << 18))

    with pytest.raises(OutOfMemoryError):
        staged([large])
    found = staged([small])["VALUES"]

    np.testing.assert_array_equal(found, small.arrays["VALUES"])


def test_a_slab_of_torchs_is_on_both_sides_or_on_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever size is asked for after there was no room."""
    deck = TorchDeck(torch.device("cpu"), cast(Any, None))
    deck.host(10)[:] = 1
    empty, calls = torch.empty, iter((True, True, False))

    def no_room(*shape: Any, **how: Any) -> Any:
        if next(calls, True):
            return empty(*shape, **how)
        raise OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", no_room)
    with pytest.raises(OutOfMemoryError):
        deck.host(4 << 20)
    deck.host(2 << 20)[:] = 7

    assert deck.down(2 << 20).sum().item() == 7 * (2 << 20)
