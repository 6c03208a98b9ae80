"""Laws of the checks of dynamic batching, queues and lengths."""

from typing import Any

import pytest
from tests.runtime.config_samples import (
    SOUND,
    dynamic,
    errors,
    found,
    length,
    sequence,
    tensor,
)

from penstock_runtime.config_check import check
from penstock_runtime.config_reader import read_config

LENGTH = "dynamic_batching.length_batching"


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (
            dynamic(preferred_batch_size=[4, 16]),
            "dynamic_batching.preferred_batch_size[1]",
            "preferred size must be <= max_batch_size 8, got 16",
        ),
        (
            dynamic(preferred_batch_size=[0]),
            "dynamic_batching.preferred_batch_size[0]",
            "preferred size must be positive, got 0",
        ),
        (
            dynamic(priority_levels=2),
            "dynamic_batching.default_priority_level",
            "must be from 1 to 2, got 0",
        ),
        (
            dynamic(priority_levels=2**60, default_priority_level=1),
            "dynamic_batching.priority_levels",
            "must be from 0 to 1024, got 1152921504606846976",
        ),
        (
            dynamic(priority_levels=1, default_priority_level=1, priority_queue_policy={"2": {}}),
            "dynamic_batching.priority_queue_policy[2]",
            "must be from 1 to 1, got 2",
        ),
        (
            dynamic(priority_levels=2, default_priority_level=1, preserve_ordering=True),
            "dynamic_batching.preserve_ordering",
            "contradicts priority_levels 2: priorities change the order",
        ),
        (
            dynamic(
                preserve_ordering=True,
                default_queue_policy={"timeout_action": 1, "default_timeout_microseconds": 5},
            ),
            "dynamic_batching.default_queue_policy.timeout_action",
            "DELAY contradicts preserve_ordering",
        ),
    ],
)
def test_batching_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """Preferred sizes, priorities and queue policies."""
    listed = errors(SOUND, **changes)

    assert listed == {field: message}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (length(input=[]), "input", "is empty"),
        (length(input=["idz"]), "input", "'idz' is no input of the model"),
        (length(input=["image"]), "input", "'image' has no length, its dims are [3,4,4]"),
        (length(pad_value=0.5), "pad_value", "0.5 is no value of 'ids', a TYPE_INT64"),
        (length(pad_value="NaN"), "pad_value", "nan is no value of 'ids', a TYPE_INT64"),
        (length(strategy="BUCKET"), "bucket_boundaries", "is empty, but the strategy is BUCKET"),
        (
            length(strategy="BUCKET", bucket_boundaries=[8, 8]),
            "bucket_boundaries[1]",
            "must be > 8, the boundary before it, got 8",
        ),
        (
            length(strategy="BUCKET", bucket_boundaries=[0, 8]),
            "bucket_boundaries[0]",
            "must be >= 1, got 0",
        ),
        (
            length(mask_name="m", mask_data_type="TYPE_STRING"),
            "mask_data_type",
            "TYPE_STRING holds no 0 and 1",
        ),
        (
            length(input=["text"], mask_name="m"),
            "mask_name",
            "has nothing to mask: TYPE_STRING inputs are never padded",
        ),
        (length(unpad_output=["none"]), "unpad_output", "'none' is no output of the model"),
        (length(unpad_output=["label"]), "unpad_output", "'label' has fixed dims [1]"),
        (length(max_padding=1.5), "max_padding", "must be from 0.0 to 1.0, got 1.5"),
        (length(max_padding="NaN"), "max_padding", "must be from 0.0 to 1.0, got nan"),
        (length(max_batch_elements=-1), "max_batch_elements", "must be >= 0, got -1"),
    ],
)
def test_length_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """What length-aware batching needs of the tensors it names."""
    listed = errors(SOUND, **changes)

    assert listed == {f"{LENGTH}.{field}": message}


def test_names_that_batchers_supply_clash_with_no_input() -> None:
    """Masks, controls, states and batch inputs are inputs of the model too."""
    assert "input" in errors(SOUND, **length(mask_name="ids"))
    assert "input" in errors(SOUND, **sequence(control_input=[{"name": "ids"}]))
    assert "input" in errors(SOUND, batch_input=[{"target_name": ["ids"]}])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (
            dynamic(default_queue_policy={"allow_timeout_override": True}),
            "dynamic_batching.default_queue_policy.allow_timeout_override",
        ),
        (dynamic(default_priority_level=1), "dynamic_batching.priority_levels"),
        ({"max_batch_size": 0, "dynamic_batching": {}}, "dynamic_batching"),
        (length(bucket_boundaries=[8]), f"{LENGTH}.bucket_boundaries"),
        ({"instance_group": [{"passive": True}]}, "instance_group"),
        ({"output": [tensor("scalar")]}, "output[0].dims"),
    ],
)
def test_what_may_be_meant_is_a_warning(changes: dict[str, Any], field: str) -> None:
    """It is shown, and the model is loaded."""
    listed = found(SOUND, **changes)

    check(read_config({**SOUND, **changes}))
    assert [(problem.severity, problem.field) for problem in listed] == [("warning", field)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dynamic_batching": {"slo_p99_ms": -1}}, "is -1, expected 0 to 3.6e+06"),
        ({"dynamic_batching": {"slo_p99_ms": 1e12}}, "is 1e+12, expected 0 to 3.6e+06"),
        ({"max_batch_size": 0, "dynamic_batching": {"slo_p99_ms": 5}}, "max_batch_size is 0"),
    ],
)
def test_a_goal_is_a_time_that_batches_can_keep(changes: dict[str, Any], told: str) -> None:
    """Of a model that has batches."""
    found = errors(SOUND, **changes)

    assert told in found["dynamic_batching.slo_p99_ms"]


def test_a_goal_and_lengths_exclude_each_other() -> None:
    """Both choose what a batch is made of."""
    both = length()
    both["dynamic_batching"]["slo_p99_ms"] = 5

    assert "length_batching" in errors(SOUND, **both)["dynamic_batching.slo_p99_ms"]
