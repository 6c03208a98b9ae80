"""Laws of ragged models in the backends: flat inputs, what tells of them, optional inputs."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.runtime.model_folders import context, executable, load, write_model
from tests.runtime.ragged_models import member
from tests.runtime.test_staging import torch_deck
from tests.runtime.torch_folders import script

from penstock_runtime.backends.base import Executable
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import BatchInput, BatchOutput, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.memory.staging import Deck
from penstock_runtime.request import EMPTY

CODE = """
def predict(X: FP32[-1], BOUNDS: INT32[-1]) -> tuple[FP32[-1].named("Y"), FP32[1].named("SUM")]:
    sums = np.add.reduceat(np.append(X, 0), BOUNDS[:-1])
    return X * 2, sums[:, None]
"""


def ragged(dims: tuple[int, ...] = (-1,)) -> ModelConfig:
    """A ragged input, where its parts begin, and the outputs of the code above."""
    return ModelConfig(
        name="m",
        max_batch_size=8,
        input=(ModelInput("X", DataType.FP32, dims, allow_ragged_batch=True),),
        output=(ModelOutput("Y", DataType.FP32, dims), ModelOutput("SUM", DataType.FP32, (1,))),
        batch_input=(
            BatchInput(
                "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO", ("BOUNDS",), source_input=("X",)
            ),
        ),
        batch_output=(BatchOutput(("Y",), source_input=("X",)),),
    )


def answers(
    config: ModelConfig, made: Any, *shapes: tuple[int, ...], deck: Deck | None = None
) -> list[list[Any]]:
    """Y and SUM of requests of these shapes, whose X is all ones, executed in one batch; put
    together by a deck if there is one.
    """
    members = [member({"X": np.ones(shape, np.float32)}, shape[0]) for shape in shapes]
    plan, batch = BatchPlan(config, 1), Batch.of(members)
    staged = None if deck is None else staged_merge(config, deck)
    merged = plan.merge(batch) if staged is None else staged(members)
    outputs = cast(Executable, made).execute(merged, [context() for _ in members])
    split = plan.split(batch, outputs, [EMPTY] * len(members), [None] * len(members))
    return [[tensor.array.tolist() for tensor in response.outputs] for response in split]


@pytest.mark.parametrize("dims", [(-1,), (-1, 1)])
def test_a_python_model_gets_flat_inputs_and_what_tells_of_them(
    tmp_path: Path, dims: tuple[int, ...]
) -> None:
    """Whatever its clients' dims are, the code sees one dimension, and answers are cut back."""
    source = replace(write_model(tmp_path, CODE), config=ragged(dims))
    more = (1,) * (len(dims) - 1)

    completed, loaded = load(source)
    loaded.close()
    with executable(source) as made:
        (first, second) = answers(completed, made, (1, 2, *more), (1, 3, *more))

    assert [i.name for i in completed.input] == ["X"]
    assert np.shape(first[0]) == (1, 2, *more)
    assert (first[1], second[1]) == ([[2.0]], [[3.0]])
    assert np.ravel(second[0]).tolist() == [2.0, 2.0, 2.0]


def test_what_the_batch_is_told_of_is_no_input_of_a_client(tmp_path: Path) -> None:
    """A configuration that lists no inputs is completed without those that the batcher makes."""
    bare = replace(ragged(), input=(), batch_output=())
    source = replace(write_model(tmp_path, CODE), config=bare)

    completed, loaded = load(source)
    loaded.close()

    assert [i.name for i in completed.input] == ["X"]


def test_the_datatype_of_a_flat_input_is_still_held_against_the_code(tmp_path: Path) -> None:
    """Only its dims are the client's affair."""
    other = (ModelInput("X", DataType.INT32, (-1, 1), allow_ragged_batch=True),)
    source = replace(write_model(tmp_path, CODE), config=replace(ragged(), input=other))

    with pytest.raises(InvalidArgument, match="input 'X' is INT32"):
        load(source)


class Segments(torch.nn.Module):
    """Doubles the flat input, and sums its segments."""

    def forward(self, x: torch.Tensor, bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ends = torch.cat([torch.zeros(1), x.cumsum(0)])[bounds.long()]
        return x * 2, (ends[1:] - ends[:-1]).unsqueeze(1)


@pytest.mark.parametrize("deck", [None, torch_deck()], ids=["by the host", "as for a GPU"])
def test_a_torch_model_gets_flat_inputs_and_what_tells_of_them(
    tmp_path: Path, deck: Deck | None
) -> None:
    """They meet parameters by position too, and no output is taken for one with rows."""
    config = ragged()

    with executable(script(tmp_path, Segments(), config)) as made:
        (first, second) = answers(config, made, (1, 2), (1, 3), deck=deck)

    assert first == [[[2.0, 2.0]], [[2.0]]]
    assert second == [[[2.0] * 3], [[3.0]]]


def test_a_request_of_two_rows_is_one_segment(tmp_path: Path) -> None:
    """Counts are by request, as in Triton: a model that sums rows needs the shapes."""
    shapes = (BatchInput("BATCH_ITEM_SHAPE_FLATTEN", ("LENGTHS",), source_input=("X",)),)
    code = """
    def predict(X: FP32[-1], LENGTHS: INT32[-1]) -> FP32[1].named("SUM"):
        return np.array([part.sum() for part in np.split(X, LENGTHS.cumsum()[:-1])])[:, None]
    """
    config = replace(ragged(), batch_input=shapes, batch_output=(), output=ragged().output[1:])
    source = replace(write_model(tmp_path, code), config=config)

    with executable(source) as made:
        (first, second) = answers(config, made, (2, 2), (1, 5))

    assert (first, second) == ([[[2.0], [2.0]]], [[[5.0]]])


def test_an_optional_input_of_python_is_its_default(tmp_path: Path) -> None:
    """What no request of the batch has is the parameter's default, whatever it is."""
    source = write_model(
        tmp_path,
        """
        @model(max_batch_size=4)
        def predict(x: FP32[1], a: FP32[1] = 5, b: FP32[1] | None = None) -> FP32[1]:
            return x + a + (0 if b is None else b)
        """,
    )
    one = np.ones((1, 1), np.float32)

    with executable(source) as made:
        call = cast(Executable, made).execute
        sums = [
            float(call(inputs, [context()])["OUTPUT0"][0, 0])
            for inputs in ({"x": one}, {"x": one, "a": one}, {"x": one, "a": one, "b": one})
        ]

    assert sums == [6.0, 2.0, 3.0]


def test_a_shape_tensor_is_not_taken_for_the_rows(tmp_path: Path) -> None:
    """The model's rows are those of its other inputs."""
    code = """
    def predict(W: INT32[2], X: FP32[-1]) -> FP32[-1, -1].named("Y"):
        return np.broadcast_to(X[:, :1, None], (len(X), *W)).copy()
    """
    config = ModelConfig(
        name="m",
        max_batch_size=8,
        input=(
            ModelInput("W", DataType.INT32, (2,), is_shape_tensor=True),
            ModelInput("X", DataType.FP32, (-1,)),
        ),
        output=(ModelOutput("Y", DataType.FP32, (-1, -1)),),
    )
    source = replace(write_model(tmp_path, code), config=config)
    inputs = {"W": np.array([2, 3], np.int32), "X": np.ones((4, 1), np.float32)}

    with executable(source) as made:
        outputs = cast(Executable, made).execute(inputs, [context()])

    assert outputs["Y"].shape == (4, 2, 3)
