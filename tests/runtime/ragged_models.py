"""Models whose requests differ in shape, and requests to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock_runtime.config import BatchInput, BatchOutput, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream

KINDS = {
    "COUNT": "BATCH_ELEMENT_COUNT",
    "ENDS": "BATCH_ACCUMULATED_ELEMENT_COUNT",
    "BOUNDS": "BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO",
    "LARGEST": "BATCH_MAX_ELEMENT_COUNT_AS_SHAPE",
    "SHAPES": "BATCH_ITEM_SHAPE",
    "FLAT_SHAPES": "BATCH_ITEM_SHAPE_FLATTEN",
}


def ragged_config(
    *,
    max_batch: int = 16,
    batching: DynamicBatching | None = None,
    dims: tuple[int, ...] = (-1,),
    told: DataType = DataType.INT32,
) -> ModelConfig:
    """A ragged input X, an input Z with rows, every kind of batch input of X, an output Y with the
    shape of X and an output S with one number for each row.
    """
    return ModelConfig(
        name="m",
        max_batch_size=max_batch,
        input=(
            ModelInput("X", DataType.FP32, dims, allow_ragged_batch=True),
            ModelInput("Z", DataType.FP32, (1,)),
        ),
        output=(ModelOutput("Y", DataType.FP32, dims), ModelOutput("S", DataType.FP32, (1,))),
        batch_input=tuple(BatchInput(kind, (name,), told, ("X",)) for name, kind in KINDS.items()),
        batch_output=(BatchOutput(("Y",), source_input=("X",)),),
        dynamic_batching=batching,
    )


def mixed_config() -> ModelConfig:
    """An input of padded lengths, a ragged one and one shape for all."""
    rules = LengthBatching(input=("P",), mask_name="MASK", pad_value=-1.0)
    return ModelConfig(
        name="m",
        max_batch_size=8,
        input=(
            ModelInput("P", DataType.FP32, (-1,)),
            ModelInput("X", DataType.FP32, (-1,), allow_ragged_batch=True),
            ModelInput("W", DataType.INT32, (2,), is_shape_tensor=True),
        ),
        output=(ModelOutput("Y", DataType.FP32, (-1,)),),
        batch_input=(BatchInput("BATCH_ELEMENT_COUNT", ("A", "B"), source_input=("X",)),),
        dynamic_batching=DynamicBatching(length_batching=rules),
    )


def member(arrays: Mapping[str, Any], rows: int = 1, length: int = 0) -> Pending:
    """A request with these arrays."""
    return Pending(InferRequest("m", ()), ResponseStream(), dict(arrays), rows, length=length)


def ragged_member(*shape: int) -> Pending:
    """A request whose X has this shape and counts from 0."""
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return member({"X": x, "Z": np.full((shape[0], 1), 2, np.float32)}, shape[0])
