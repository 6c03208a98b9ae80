"""A sound configuration, blocks to change in it, and what the checks find then."""

from typing import Any

from penstock_runtime.config_check import Problem, problems
from penstock_runtime.config_reader import read_config


def tensor(name: str, *dims: int, data_type: str = "TYPE_FP32", **more: Any) -> dict[str, Any]:
    """One input or output."""
    return {"name": name, "data_type": data_type, "dims": list(dims), **more}


SOUND: dict[str, Any] = {
    "name": "m",
    "max_batch_size": 8,
    "input": [
        tensor("ids", -1, data_type="TYPE_INT64"),
        tensor("text", 1, data_type="TYPE_STRING"),
        tensor("image", 3, 4, 4, reshape={"shape": [48]}, optional=True),
    ],
    "output": [tensor("scores", -1, 2), tensor("label", 1)],
}
STEP = {"model_name": "a", "input_map": {"x": "in"}, "output_map": {"y": "out"}}
ENSEMBLE: dict[str, Any] = {
    "name": "e",
    "platform": "ensemble",
    "input": [tensor("in", 1)],
    "output": [tensor("out", 1)],
    "ensemble_scheduling": {"step": [STEP]},
}
WARM = {"data_type": "TYPE_INT64", "dims": [5], "zero_data": True}
TEXT = {"data_type": "TYPE_STRING", "dims": [1], "zero_data": True}


def found(data: dict[str, Any], **changes: Any) -> list[Problem]:
    """The problems of a mapping with some fields changed."""
    return problems(read_config({**data, **changes}))


def errors(data: dict[str, Any], **changes: Any) -> dict[str, str]:
    """Messages of the errors by their field."""
    listed = found(data, **changes)
    assert all(problem.fix and problem.message for problem in listed)
    return {one.field: one.message for one in listed if one.severity == "error"}


def dynamic(**fields: Any) -> dict[str, Any]:
    """A dynamic_batching block."""
    return {"dynamic_batching": fields}


def length(**fields: Any) -> dict[str, Any]:
    """A length_batching block over ids."""
    return dynamic(length_batching={"input": ["ids"], **fields})


def sequence(**fields: Any) -> dict[str, Any]:
    """A sequence_batching block."""
    return {"sequence_batching": fields}


def control(**fields: Any) -> dict[str, Any]:
    """A sequence_batching block with one control."""
    return sequence(control_input=[{"name": "C", "control": [fields]}])


def state(initial: dict[str, Any]) -> dict[str, Any]:
    """A sequence_batching block with one state of shape [2,-1] and its first value."""
    fields = {"input_name": "S", "output_name": "T", "data_type": "TYPE_FP32", "dims": [2, -1]}
    return sequence(state=[{**fields, "initial_state": [initial]}])


def warmup(**fields: Any) -> dict[str, Any]:
    """A warm-up of ids and text, some fields changed."""
    return {"model_warmup": [{"name": "w", "inputs": {"ids": WARM, "text": TEXT}, **fields}]}


def group(**fields: Any) -> dict[str, Any]:
    """One instance group."""
    return {"instance_group": [fields]}
