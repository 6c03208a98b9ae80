"""Laws of a `model.cu` over a ragged batch: it reads the requests' elements flat, cast if that is
asked for, and beside them whatever tells of the batch, on either way to the same answers.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import CACHE, needs_compiler
from tests.runtime.kernel_folders import cuda_source
from tests.runtime.model_folders import context, load
from tests.runtime.ragged_models import member
from tests.runtime.test_staging import Poisoned

from penstock_kernels import run as kernels
from penstock_kernels.emulate.runner import Emulated
from penstock_kernels.run import Reference
from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import BatchInput, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

SUMS = """\
#include "common.cuh"

__global__ void sums(const f16* x, const long long* bounds, float* y) {
  float sum = 0;
  for (long long i = bounds[blockIdx.x]; i < bounds[blockIdx.x + 1]; ++i) sum += float(x[i]);
  y[blockIdx.x] = sum;
}
"""
REFERENCE = """\
import numpy as np

def reference(X, BOUNDS):
    assert X.dtype == np.float16
    sums = [X[a:b].astype(np.float32).sum() for a, b in zip(BOUNDS[:-1], BOUNDS[1:])]
    return np.array(sums, np.float32)[:, None]
"""
BOUNDS = BatchInput(
    "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", ("BOUNDS",), DataType.INT64, ("X",)
)
LENGTHS = (3, 0, 40, 1)


def ragged(root: Path, **more: Any) -> ModelSource:
    """The sum of each request's elements, whatever their number."""
    parameters = {
        "function": "sums",
        "grid": "BOUNDS.size - 1",
        "block": "1",
        "arguments": "X, BOUNDS, Y",
        "shape.Y": "BOUNDS.size - 1, 1",
        "batch_cast": "X: FP16",
    }
    config: dict[str, Any] = {
        "parameters": parameters,
        "input": (ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True),),
        "output": (ModelOutput("Y", DataType.FP32, (1,)),),
        "batch_input": (BOUNDS,),
        "dynamic_batching": DynamicBatching(),
    }
    return cuda_source(root, SUMS, REFERENCE, **{**config, **more})


def sums(source: ModelSource, *, staged: bool) -> list[float]:
    """What a batch of these lengths is answered."""
    members = [member({"X": np.full((1, n), 2 + n, np.float32)}) for n in LENGTHS]
    config, loaded = load(source)
    made: Any = loaded.executable(Placement("m_0"))
    on_device = staged_merge(config, Poisoned(kernels.host_runner()), made.tables)
    assert on_device is not None
    merged = on_device(members) if staged else BatchPlan(config, 1).merge(Batch.of(members))
    answers: list[float] = made.execute(merged, [context()])["Y"][:, 0].tolist()
    loaded.close()
    return answers


@needs_compiler
@pytest.mark.parametrize("runner", [Reference(), Emulated(CACHE, order=1)], ids=["host", "cuda"])
@pytest.mark.parametrize("staged", [False, True])
def test_a_kernel_reads_where_each_request_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: Any, staged: bool
) -> None:
    monkeypatch.setattr(kernels, "host_runner", lambda: runner)

    assert sums(ragged(tmp_path), staged=staged) == [15, 0, 42 * 40, 3]


def test_arguments_that_are_not_said_are_inputs_and_outputs(tmp_path: Path) -> None:
    """A kernel that was written without what tells of the batch is given none of it."""
    source = ragged(tmp_path)
    parameters = {key: said for key, said in source.config.parameters.items() if key != "arguments"}
    source = replace(source, config=replace(source.config, parameters=parameters))
    _, loaded = load(source)
    step: Any = loaded

    tensors = {
        "X": np.zeros(4, np.float16),
        "BOUNDS": np.zeros(3, np.int64),
        "Y": np.zeros((2, 1), np.float32),
    }
    (launch,) = step.step.kernel.launches(tensors)
    loaded.close()

    assert [array.size for array in launch.arguments] == [4, 2]
    assert launch.grid == (2, 1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_input": (replace(BOUNDS, target_name=("Y",)),)}, "share a name"),
        ({"batch_input": (replace(BOUNDS, target_name=("a-b",)),)}, "'a-b' is INT64, expected"),
        ({"dynamic_batching": None}, "batch_cast has 'X: FP16', expected only where there is"),
        ({"batch_input": ()}, "BOUNDS"),
    ],
)
def test_what_tells_of_a_batch_has_a_name_of_its_own(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        load(ragged(tmp_path, **change))


@needs_compiler
def test_a_kernel_reads_the_mask_of_its_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name that the batcher gives it."""
    code = """
__global__ void masked(const float* x, const int* mask, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = mask[i] ? x[i] : 7.0f;
}
"""
    rules = LengthBatching(
        input=("X",), mask_name="MASK", mask_data_type=DataType.INT32, max_padding=1.0
    )
    source = cuda_source(
        tmp_path,
        code,
        "def reference(X, MASK): return X * MASK + 7 * (MASK == 0)",
        parameters={"function": "masked", "arguments": "X, MASK, Y, int32(X.size)"},
        dynamic_batching=DynamicBatching(length_batching=rules),
    )
    config, loaded = load(source)
    members = [member({"X": np.full((1, n), n, np.float32)}, 1, n) for n in (2, 3)]
    found = []
    for runner in (Reference(), Emulated(CACHE)):
        monkeypatch.setattr(kernels, "host_runner", lambda runner=runner: runner)
        made: Any = loaded.executable(Placement("m_0"))
        staged = staged_merge(config, Poisoned(runner))
        assert staged is not None
        found.append(made.execute(staged(members), [context()])["Y"].tolist())
    loaded.close()

    assert found == [[[2, 2, 7], [3, 3, 3]]] * 2
