"""Folders of kernel models written for a test: a configuration, a `model.cu`, a reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.kernels.executor import CACHE
from tests.runtime.model_folders import context, load

from penstock_kernels import run as kernels
from penstock_kernels.emulate.runner import Emulated
from penstock_runtime.backends.base import Executable, ModelSource, Placement
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, ModelParameter
from penstock_runtime.datatype import DataType

SCALE = """\
#include "common.cuh"

__global__ void scale(const float* x, float* y, int n, float by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * by;
}
"""
REFERENCE = """\
def reference(X):
    return X * 2.5
"""
LAUNCH = {
    "function": "scale",
    "grid": "ceil_div(X.size, 256)",
    "arguments": "X, Y, int32(X.size), float32(2.5)",
}
X = (ModelInput("X", DataType.FP32, (-1,)),)
Y = (ModelOutput("Y", DataType.FP32, (-1,)),)


def kernel_source(root: Path, parameters: dict[str, str], **config: Any) -> ModelSource:
    """Version 1 of a kernel model of these parameters."""
    version = root / "m" / "1"
    version.mkdir(parents=True, exist_ok=True)
    said = {key: ModelParameter(text) for key, text in parameters.items()}
    made = ModelConfig(name="m", backend="kernel", parameters=said, **config)
    return ModelSource(made, 1, version, version.parent)


def cuda_source(
    root: Path, text: str = SCALE, reference: str = REFERENCE, **more: Any
) -> ModelSource:
    """A model.cu, with a reference unless that is empty; `more` changes the configuration."""
    parameters = {**LAUNCH, **more.pop("parameters", {})}
    config = {"max_batch_size": 8, "input": X, "output": Y, **more}
    source = kernel_source(root, parameters, **config)
    (source.directory / "model.cu").write_text(text)
    if reference:
        (source.directory / "reference.py").write_text(reference)
    return source


@contextmanager
def opened(source: ModelSource) -> Iterator[Any]:
    """Takes inputs by name, gives the outputs of one batch; on the CPU."""
    _, loaded = load(source)
    try:
        made = cast(Executable, loaded.executable(Placement("m_0")))
        yield lambda **inputs: dict(made.execute(inputs, [context()]))
        made.close()
    finally:
        loaded.close()


def answer(source: ModelSource, **inputs: Any) -> dict[str, Any]:
    """The outputs of one batch of a freshly loaded model."""
    with opened(source) as model:
        found: dict[str, Any] = model(**inputs)
        return found


def both_ways(
    patch: pytest.MonkeyPatch, source: ModelSource, **inputs: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the reference answers, and what the CUDA source does, executed on this CPU."""
    by_reference = answer(source, **inputs)
    emulate(patch)
    return by_reference, answer(source, **inputs)


def emulate(patch: pytest.MonkeyPatch) -> None:
    """Whatever would run a reference runs the CUDA source from now on."""
    patch.setattr(kernels, "host_runner", lambda: Emulated(CACHE, order=1))


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Numbers of either sign, always the same."""
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)
