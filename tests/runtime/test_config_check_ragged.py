"""Laws of the checks of ragged batches and shape tensors."""

from dataclasses import replace

import pytest
from tests.runtime.ragged_models import mixed_config, ragged_config

from penstock_runtime.config import (
    BatchInput,
    BatchOutput,
    InstanceGroup,
    ModelConfig,
    ModelInput,
    ModelOutput,
    RateLimiter,
    RateLimiterResource,
)
from penstock_runtime.config_check import check, problems
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

RAGGED = ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True)
OPTIONAL = replace(RAGGED, optional=True)
SHAPE = ModelInput("W", DataType.INT32, (2,), is_shape_tensor=True)


def model(
    *inputs: ModelInput,
    told: BatchInput | None = None,
    cut: BatchOutput | None = None,
    dims: tuple[int, ...] = (-1,),
    max_batch: int = 8,
) -> ModelConfig:
    """A model with these inputs and an output Y."""
    return ModelConfig(
        name="m",
        max_batch_size=max_batch,
        input=inputs,
        output=(ModelOutput("Y", DataType.FP32, dims),),
        batch_input=(told,) if told is not None else (),
        batch_output=(cut,) if cut is not None else (),
    )


@pytest.mark.parametrize("config", [ragged_config(), mixed_config()])
def test_what_is_sound_is_sound(config: ModelConfig) -> None:
    """Every kind, several targets, beside padding and shape tensors."""
    check(config)

    assert [p for p in problems(config) if p.severity == "error"] == []


@pytest.mark.parametrize("data_type", [DataType.INT32, DataType.FP32, DataType.INT64])
def test_counts_may_be_numbers_of_these_types(data_type: DataType) -> None:
    """Triton's, and INT64, which is what torch takes for an index."""
    told = BatchInput("BATCH_ELEMENT_COUNT", ("N", "M"), data_type, ("X",))

    assert problems(model(RAGGED, told=told)) == []


@pytest.mark.parametrize(
    ("config", "field", "text"),
    [
        (
            model(RAGGED, told=BatchInput(target_name=("N",), source_input=("Z",))),
            "batch_input[0].source_input",
            "'Z' is no input of the model",
        ),
        (
            model(RAGGED, told=BatchInput(target_name=("N",), source_input=("X", "X"))),
            "batch_input[0].source_input",
            "must be one name, got ['X', 'X']",
        ),
        (
            model(RAGGED, told=BatchInput(source_input=("X",))),
            "batch_input[0].target_name",
            "must be one name or more, got []",
        ),
        (
            model(RAGGED, told=BatchInput(target_name=("N", "X"), source_input=("X",))),
            "input",
            "'X' is given 2 times",
        ),
        (
            model(RAGGED, told=BatchInput(target_name=("N", "N"), source_input=("X",))),
            "input",
            "'N' is given 2 times",
        ),
        (
            model(RAGGED, told=BatchInput("BATCH_ELEMENT_COUNT", ("N",), DataType.BYTES, ("X",))),
            "batch_input[0].data_type",
            "must be one of TYPE_INT32, TYPE_INT64, TYPE_FP32, got 'TYPE_STRING'",
        ),
        (
            model(OPTIONAL, told=BatchInput(target_name=("N",), source_input=("X",))),
            "batch_input[0].source_input",
            "'X' is optional: a request without it has no shape to tell of",
        ),
        (
            model(OPTIONAL, cut=BatchOutput(("Y",), source_input=("X",))),
            "batch_output[0].source_input",
            "'X' is optional: a request without it has no shape to tell of",
        ),
        (
            model(RAGGED, cut=BatchOutput(("Y", "Y"), source_input=("X",))),
            "batch_output",
            "'Y' is given 2 times",
        ),
        (
            model(RAGGED, cut=BatchOutput(("N",), source_input=("X",))),
            "batch_output[0].target_name",
            "'N' is no output of the model",
        ),
        (
            model(RAGGED, cut=BatchOutput(("Y",), source_input=("X",)), dims=(2, -1)),
            "batch_output[0].target_name",
            "dims [2,-1] of 'Y' have a -1 where input 'X' [-1] has no dimension",
        ),
        (
            model(RAGGED, told=BatchInput(target_name=("N",), source_input=("X",)), max_batch=0),
            "batch_input",
            "needs batches, but max_batch_size is 0",
        ),
        (
            model(replace(SHAPE, allow_ragged_batch=True)),
            "input[0].allow_ragged_batch",
            "contradicts is_shape_tensor: a batch has one shape for all",
        ),
        (
            model(replace(SHAPE, data_type=DataType.BYTES)),
            "input[0].data_type",
            "TYPE_STRING holds no shape",
        ),
    ],
)
def test_what_cannot_be_served_is_named(config: ModelConfig, field: str, text: str) -> None:
    """The field, what it says, and what was expected; the model is not loaded."""
    found = {p.field: p.message for p in problems(config) if p.severity == "error"}

    assert found == {field: text}
    with pytest.raises(InvalidArgument):
        check(config)


def test_a_resource_that_is_shared_here_and_not_there_is_a_warning() -> None:
    """It is refused only where rates are limited, and said before."""
    groups = tuple(
        InstanceGroup("g", rate_limiter=RateLimiter((RateLimiterResource("R", shared),)))
        for shared in (True, False)
    )

    (problem,) = problems(replace(model(RAGGED), instance_group=groups))

    assert (problem.severity, problem.field) == (
        "warning",
        "instance_group[1].rate_limiter.resources",
    )


def test_ragged_without_batches_is_a_warning() -> None:
    """It is accepted and has no effect."""
    (problem,) = problems(model(RAGGED, max_batch=0))

    assert (problem.severity, problem.field) == ("warning", "input[0].allow_ragged_batch")
