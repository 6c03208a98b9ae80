"""Laws of a model.py that uses CuPy: its arrays are of torch's memory where torch is in use on a
GPU, unless it chooses otherwise. Told by a CuPy that only keeps books.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from tests.kernels.gpu_memory import FakeCupy, FakeTorch
from tests.runtime.model_folders import context, executable, write_model

from penstock_runtime.backends.base import Executable

AT_TOP = """
import cupy
kept = cupy.alloc(3)

def predict(X: FP32[1]) -> FP32[1]:
    return X * cupy.alloc(64).size
"""
LATE = """
def predict(X: FP32[1]) -> FP32[1]:
    import cupy
    return X * cupy.alloc(64).size
"""
OWN = """
import cupy
cupy.set_allocator(cupy._of_pool)

def predict(X: FP32[1]) -> FP32[1]:
    return X * cupy.alloc(64).size
"""


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    """It seems to be installed."""
    made = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cast(ModuleType, made))
    return made


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    """It seems to be in use."""
    made = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", cast(ModuleType, made))
    return made


def answered(tmp_path: Path, code: str) -> Any:
    with executable(write_model(tmp_path, code)) as made:
        found = cast(Executable, made).execute({"X": np.ones(1, np.float32)}, [context()])
        return next(iter(found.values())).tolist()


@pytest.mark.parametrize("code", [AT_TOP, LATE])
def test_a_models_arrays_are_of_torchs_memory(
    cupy: FakeCupy, torchs: FakeTorch, tmp_path: Path, code: str
) -> None:
    """Wherever in its code it imports CuPy."""
    assert answered(tmp_path, code) == [64]

    assert (64, 0, 0) in torchs.freed
    assert cupy.of_pool == 0


def test_an_allocator_that_a_model_chooses_stands(
    cupy: FakeCupy, torchs: FakeTorch, tmp_path: Path
) -> None:
    """It is the process's, as CuPy has it."""
    assert answered(tmp_path, OWN) == [64]

    assert cupy.of_pool == 64
    assert torchs.held == {}


def test_without_torch_on_a_gpu_cupy_has_its_own(
    cupy: FakeCupy, torchs: FakeTorch, tmp_path: Path
) -> None:
    torchs.in_use = False

    assert answered(tmp_path, LATE) == [64]

    assert cupy.of_pool == 64
