"""Laws of the checks of sequences, ensembles, ragged batches and warm-up."""

from typing import Any

import pytest
from tests.runtime.config_samples import (
    ENSEMBLE,
    SOUND,
    STEP,
    TEXT,
    WARM,
    control,
    errors,
    sequence,
    state,
    tensor,
    warmup,
)

from penstock_runtime.config_check import normalise, problems
from penstock_runtime.config_reader import read_config

START = {"kind": "CONTROL_SEQUENCE_START", "int32_false_true": [0, 1]}


def test_an_ensemble_gets_no_instances() -> None:
    """Its models have them."""
    config = normalise(read_config(ENSEMBLE))

    assert config.instance_group == ()
    assert problems(config) == []


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (sequence(direct={}, oldest={}), "", "has both direct and oldest"),
        (
            sequence(oldest={"preferred_batch_size": [9]}),
            ".oldest.preferred_batch_size[0]",
            "preferred size must be <= max_batch_size 8, got 9",
        ),
        (
            sequence(oldest={}),
            ".oldest.max_candidate_sequences",
            "must be >= 1, got 0",
        ),
        (
            sequence(direct={"minimum_slot_utilization": 2}),
            ".direct.minimum_slot_utilization",
            "must be from 0.0 to 1.0, got 2.0",
        ),
        (
            control(kind="CONTROL_SEQUENCE_END", int32_false_true=[1]),
            ".control_input[0].control[0]",
            "needs the values for false and true, two of one type",
        ),
        (
            control(kind="CONTROL_SEQUENCE_CORRID", data_type="TYPE_FP32"),
            ".control_input[0].control[0].data_type",
            "must be one of TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32, TYPE_STRING, got"
            " TYPE_FP32",
        ),
        (
            state({"data_type": "TYPE_INT32", "dims": [2, 1], "zero_data": True}),
            ".state[0].initial_state[0].data_type",
            "is TYPE_INT32, the state is TYPE_FP32",
        ),
        (
            state({"data_type": "TYPE_FP32", "dims": [3, 1], "zero_data": True}),
            ".state[0].initial_state[0].dims",
            "[3,1] is none of the state's [2,-1]",
        ),
        (
            state({"data_type": "TYPE_FP32", "dims": [2, -1], "zero_data": True}),
            ".state[0].initial_state[0].dims[1]",
            "must be > 0, got -1",
        ),
        (
            state({"data_type": "TYPE_FP32", "dims": [2, 1], "data_file": "../secret"}),
            ".state[0].initial_state[0].data_file",
            "'../secret' leads out of the model's folder",
        ),
        (
            state({"data_type": "TYPE_FP32", "dims": [2, 1]}),
            ".state[0].initial_state[0]",
            "needs one of zero_data and data_file",
        ),
        (
            sequence(control_input=[{"name": "C", "control": [START, START]}]),
            ".control_input[0].control",
            "lists 2 controls, an input carries one",
        ),
        (
            sequence(control_input=[{"name": "ids", "control": [START]}]),
            "",
            "'ids' is an input that clients send",
        ),
    ],
)
def test_sequence_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """Strategies, controls and states."""
    listed = errors(SOUND, **changes)

    assert listed[f"sequence_batching{field}"] == message


def test_a_model_with_sequences_has_no_response_cache() -> None:
    """An answer depends on what came before."""
    listed = errors(SOUND, **sequence(direct={}), response_cache={"enable": True})

    assert listed == {"response_cache": "cannot be enabled for a model with sequences"}


@pytest.mark.parametrize("text", ["", "-1", "many", "1048577"])
def test_how_many_sequences_may_wait_is_a_number_within_bounds(text: str) -> None:
    """The limit has a limit."""
    field = "max_backlog_sequences"
    listed = errors(SOUND, **sequence(direct={}), parameters={field: {"string_value": text}})

    assert list(listed) == [f'parameters["{field}"]']


@pytest.mark.parametrize(
    ("steps", "field", "message"),
    [
        ([], "step", "is empty"),
        ([{**STEP, "model_name": "e"}], "step[0].model_name", "is the ensemble itself"),
        ([{**STEP, "output_map": {}}], "step[0].output_map", "is empty"),
        ([STEP, STEP], "step", "the tensor 'out' is made 2 times"),
        (
            [{**STEP, "input_map": {"x": "nowhere"}}],
            'step[0].input_map["x"]',
            "the tensor 'nowhere' is no input of the ensemble and no step's output",
        ),
        (
            [{**STEP, "input_map": {"x": "out"}}],
            "step",
            "the steps [0] wait for each other's outputs",
        ),
        (
            [{**STEP, "model_version": -2}],
            "step[0].model_version",
            "must be >= 1, or -1 for the latest, got -2",
        ),
    ],
)
def test_ensemble_errors_are_named(steps: list[Any], field: str, message: str) -> None:
    """Every tensor is made once, and in an order that exists."""
    listed = errors(ENSEMBLE, ensemble_scheduling={"step": steps})

    assert listed[f"ensemble_scheduling.{field}"] == message


def test_an_ensemble_must_make_its_outputs() -> None:
    """An output that no step makes would never be answered."""
    listed = errors(ENSEMBLE, output=[tensor("other", 1)])

    assert listed == {"output[0].name": "no step makes the tensor 'other'"}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        (warmup(batch_size=9), ".batch_size", "must be <= max_batch_size 8, got 9"),
        (warmup(inputs={"ids": WARM}), ".inputs", "misses the inputs ['text']"),
        (
            warmup(inputs={"ids": WARM, "text": TEXT, "no": WARM}),
            '.inputs["no"]',
            "'no' is no input of the model",
        ),
        (
            warmup(inputs={"text": TEXT, "ids": {**WARM, "data_type": "TYPE_INT32"}}),
            '.inputs["ids"].data_type',
            "is TYPE_INT32, the input is TYPE_INT64",
        ),
        (
            warmup(inputs={"text": TEXT, "ids": {**WARM, "dims": [1, 5]}}),
            '.inputs["ids"].dims',
            "[1,5] is none of the input's [-1]",
        ),
        (
            warmup(inputs={"text": TEXT, "ids": {**WARM, "dims": [2**40]}}),
            '.inputs["ids"].dims',
            "takes 8796093022208 bytes, more than 2147483647",
        ),
        (
            warmup(inputs={"text": TEXT, "ids": {**WARM, "random_data": True}}),
            '.inputs["ids"]',
            "must have one of zero_data, random_data and input_data_file, got 2",
        ),
    ],
)
def test_warmup_errors_are_named(changes: dict[str, Any], field: str, message: str) -> None:
    """A warm-up is a request that the model must be able to take."""
    listed = errors(SOUND, **changes)

    assert listed == {f"model_warmup[0]{field}": message}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"batch_input": [{"target_name": ["N"]}]}, "batch_input[0].source_input"),
        (
            {"batch_input": [{"target_name": ["N"], "source_input": ["no"]}]},
            "batch_input[0].source_input",
        ),
        (
            {"batch_output": [{"target_name": ["no"], "source_input": ["ids"]}]},
            "batch_output[0].target_name",
        ),
    ],
)
def test_ragged_errors_are_named(changes: dict[str, Any], field: str) -> None:
    """Ragged batches name inputs and outputs that exist."""
    listed = errors(SOUND, **changes)

    assert list(listed) == [field]
