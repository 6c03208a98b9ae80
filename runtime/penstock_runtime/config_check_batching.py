"""Checks of how requests wait and share batches: dynamic batching, queues, priorities, lengths."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.config_problem import (
    Problems,
    bad_batch_sizes,
    below,
    error,
    not_one_of,
    outside,
    repeated,
    shape_text,
    unknown,
    warning,
)
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching, QueuePolicy
from penstock_runtime.config_schema import ENUMS
from penstock_runtime.datatype import DataType

# Each level is a queue, whether anything waits in it or not.
PRIORITY_LIMIT = 1024


# An hour: what waits longer is no request.
MOST_GOAL_MS = 3_600_000.0


def batching_problems(config: ModelConfig) -> Problems:
    """The block dynamic_batching."""
    batching = config.dynamic_batching
    if batching is None:
        return
    field = "dynamic_batching"
    sizes = batching.preferred_batch_size
    yield from bad_batch_sizes(f"{field}.preferred_batch_size", sizes, config.max_batch_size)
    yield from below(
        f"{field}.max_queue_delay_microseconds", batching.max_queue_delay_microseconds, 0
    )
    if config.max_batch_size < 1:
        message = "forms no batches, because max_batch_size is 0: only its queues have an effect"
        yield warning(field, message, "set max_batch_size to 1 or more, or remove the block")
    yield from _priorities(batching)
    for place, policy in _policies(batching).items():
        yield from _queue_policy(f"{field}.{place}", policy, batching.preserve_ordering)
    if batching.length_batching is not None:
        yield from _length_batching(f"{field}.length_batching", batching.length_batching, config)
    yield from _goal(f"{field}.slo_p99_ms", batching, config)


def _goal(field: str, batching: DynamicBatching, config: ModelConfig) -> Problems:
    goal = batching.slo_p99_ms
    if not 0 <= goal <= MOST_GOAL_MS:
        yield error(field, f"is {goal:g}, expected 0 to {MOST_GOAL_MS:g}", "milliseconds")
    if goal and config.max_batch_size < 1:
        yield error(field, "needs batches, but max_batch_size is 0", "set max_batch_size")
    if goal and batching.length_batching is not None:
        yield error(field, "goes with no length_batching, which has sizes of its own", "drop one")


def _policies(batching: DynamicBatching) -> Mapping[str, QueuePolicy]:
    """Each queue policy by its path."""
    policies = {
        f"priority_queue_policy[{level}]": policy
        for level, policy in batching.priority_queue_policy.items()
    }
    if batching.default_queue_policy is not None:
        policies["default_queue_policy"] = batching.default_queue_policy
    return policies


def _priorities(batching: DynamicBatching) -> Problems:
    field = "dynamic_batching"
    levels = batching.priority_levels
    yield from outside(f"{field}.priority_levels", levels, 0, PRIORITY_LIMIT)
    if levels == 0:
        if batching.default_priority_level or batching.priority_queue_policy:
            message = "is 0, so that levels and their policies have no effect"
            yield warning(f"{field}.priority_levels", message, "set the number of levels")
        return
    yield from outside(
        f"{field}.default_priority_level", batching.default_priority_level, 1, levels
    )
    for level in batching.priority_queue_policy:
        yield from outside(f"{field}.priority_queue_policy[{level}]", level, 1, levels)
    if batching.preserve_ordering and levels > 1:
        message = f"contradicts priority_levels {levels}: priorities change the order"
        yield error(f"{field}.preserve_ordering", message, "remove one of the two")


def _queue_policy(field: str, policy: QueuePolicy, ordered: bool) -> Problems:
    actions = ENUMS[QueuePolicy, "timeout_action"]
    timeout = policy.default_timeout_microseconds
    yield from not_one_of(f"{field}.timeout_action", policy.timeout_action, actions)
    yield from below(f"{field}.default_timeout_microseconds", timeout, 0)
    yield from below(f"{field}.max_queue_size", policy.max_queue_size, 0)
    if policy.allow_timeout_override and timeout == 0:
        message = (
            "has no effect, because default_timeout_microseconds is 0: a request may only shorten"
            " the default"
        )
        fix = "set default_timeout_microseconds, or let clients use the gRPC deadline"
        yield warning(f"{field}.allow_timeout_override", message, fix)
    if ordered and policy.timeout_action == "DELAY" and timeout > 0:
        message = "DELAY contradicts preserve_ordering"
        yield error(f"{field}.timeout_action", message, "use REJECT or drop preserve_ordering")


def _length_batching(field: str, batching: LengthBatching, config: ModelConfig) -> Problems:
    inputs = {tensor.name: tensor for tensor in config.input}
    if config.max_batch_size < 1:
        yield error(field, "needs batches, but max_batch_size is 0", "set max_batch_size")
    if not batching.input:
        fix = "name the inputs whose first variable dimension is the length"
        yield error(f"{field}.input", "is empty", fix)
    yield from repeated(f"{field}.input", batching.input)
    for name in dict.fromkeys(batching.input):
        yield from unknown(f"{field}.input", name, inputs, "input")
        if name in inputs:
            yield from _length_input(field, batching, inputs[name])
    yield from _buckets(field, batching)
    yield from _mask(field, batching, inputs)
    yield from _unpad(field, batching, config)
    yield from outside(f"{field}.max_padding", batching.max_padding, 0.0, 1.0)
    yield from below(f"{field}.max_batch_elements", batching.max_batch_elements, 0)


def _length_input(field: str, batching: LengthBatching, tensor: ModelInput) -> Problems:
    if tensor.allow_ragged_batch:
        message = f"'{tensor.name}' is ragged: it is joined without padding"
        yield error(f"{field}.input", message, "remove allow_ragged_batch from the input")
    if tensor.data_type is DataType.BYTES:
        return
    if -1 not in tensor.dims:
        message = f"'{tensor.name}' has no length, its dims are {shape_text(tensor.dims)}"
        yield error(f"{field}.input", message, "write -1 for the dimension that varies")
    elif not _holds(tensor.data_type, batching.pad_value):
        data_type = tensor.data_type.config_name
        message = f"{batching.pad_value} is no value of '{tensor.name}', a {data_type}"
        yield error(f"{field}.pad_value", message, "choose a value that the input can hold")


def _holds(data_type: DataType, value: float) -> bool:
    if data_type in (DataType.FP16, DataType.FP32, DataType.FP64, DataType.BF16):
        return True
    if not math.isfinite(value) or not value.is_integer():
        return False
    if data_type is DataType.BOOL:
        return value in (0.0, 1.0)
    limits = np.iinfo(data_type.numpy)
    return int(limits.min) <= int(value) <= int(limits.max)


def _buckets(field: str, batching: LengthBatching) -> Problems:
    place = f"{field}.bucket_boundaries"
    boundaries = batching.bucket_boundaries
    yield from not_one_of(f"{field}.strategy", batching.strategy, ENUMS[LengthBatching, "strategy"])
    if batching.strategy == "BUCKET" and not boundaries:
        yield error(place, "is empty, but the strategy is BUCKET", "list the longest lengths")
    if batching.strategy == "SORT" and boundaries:
        yield warning(place, "has no effect, the strategy is SORT", "set strategy: BUCKET")
    for boundary in boundaries[:1]:
        yield from below(f"{place}[0]", boundary, 1)
    for index, (before, after) in enumerate(pairwise(boundaries), start=1):
        if after <= before:
            message = f"must be > {before}, the boundary before it, got {after}"
            yield error(f"{place}[{index}]", message, "sort the boundaries")
            return


def _mask(field: str, batching: LengthBatching, inputs: Mapping[str, ModelInput]) -> Problems:
    if not batching.mask_name:
        return
    if batching.mask_data_type is DataType.BYTES:
        message = "TYPE_STRING holds no 0 and 1"
        yield error(f"{field}.mask_data_type", message, "choose a numeric type")
    known = [inputs[name] for name in batching.input if name in inputs]
    if known and all(tensor.data_type is DataType.BYTES for tensor in known):
        message = "has nothing to mask: TYPE_STRING inputs are never padded"
        yield error(f"{field}.mask_name", message, "remove it, or name a padded input")


def _unpad(field: str, batching: LengthBatching, config: ModelConfig) -> Problems:
    outputs = {tensor.name: tensor for tensor in config.output}
    yield from repeated(f"{field}.unpad_output", batching.unpad_output)
    for name in dict.fromkeys(batching.unpad_output):
        yield from unknown(f"{field}.unpad_output", name, outputs, "output")
        if name in outputs and -1 not in outputs[name].dims:
            message = f"'{name}' has fixed dims {shape_text(outputs[name].dims)}"
            fix = "write -1 for the dimension that varies, or remove the name"
            yield error(f"{field}.unpad_output", message, fix)
