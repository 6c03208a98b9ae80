"""Laws of completing a configuration, and of what is said about all that is wrong in it."""

from typing import Any

import pytest
from hypothesis import given
from tests.config_strategies import configs
from tests.runtime.config_samples import (
    SOUND,
    control,
    dynamic,
    length,
    sequence,
    state,
    warmup,
)

from penstock_runtime.config import InstanceGroup, ModelConfig
from penstock_runtime.config_check import check, normalise, problems
from penstock_runtime.config_reader import config_to_dict, read_config
from penstock_runtime.errors import InvalidArgument


@given(configs())
def test_normalising_twice_is_normalising_once(config: ModelConfig) -> None:
    """What is written out is what was meant."""
    once = normalise(config)

    assert normalise(once) == once


@given(configs())
def test_any_configuration_has_an_answer(config: ModelConfig) -> None:
    """check refuses exactly what has an error, with the first one; nothing else is raised."""
    listed = [problem for problem in problems(config) if problem.severity == "error"]

    try:
        check(config)
    except InvalidArgument as error:
        message, violations = error.message, error.violations
    else:
        message, violations = "", ()

    assert message == (f"{listed[0].field}: {listed[0].message}" if listed else "")
    expected = [(problem.field, problem.message) for problem in listed[:16]]
    assert [(one.field, one.description) for one in violations] == expected


def test_defaults_are_written_out_as_triton_does() -> None:
    """Latest version, one named instance, preferred size, idle time."""
    config = normalise(read_config({**SOUND, "dynamic_batching": {}}))
    oldest = {"oldest": {"max_candidate_sequences": 4}}
    waiting = normalise(read_config({**SOUND, "sequence_batching": oldest}))

    assert config_to_dict(config)["version_policy"] == {"latest": {"num_versions": 1}}
    assert config.instance_group == (InstanceGroup(name="m_0", count=1),)
    assert config.dynamic_batching is not None
    assert config.dynamic_batching.preferred_batch_size == (8,)
    assert waiting.sequence_batching is not None
    assert waiting.sequence_batching.max_sequence_idle_microseconds == 1_000_000
    assert waiting.sequence_batching.oldest is not None
    assert waiting.sequence_batching.oldest.preferred_batch_size == (8,)


def test_what_is_given_stays() -> None:
    """Only what is absent is filled in; batching is never switched on."""
    given = {"version_policy": {"all": {}}, "instance_group": [{"name": "g", "count": 3}]}
    config = normalise(read_config({**SOUND, **given}))
    batched = normalise(read_config({**SOUND, **dynamic(preferred_batch_size=[2, 4])}))

    assert config_to_dict(config) == config_to_dict(read_config({**SOUND, **given}))
    assert config.dynamic_batching is None
    assert batched.dynamic_batching is not None
    assert batched.dynamic_batching.preferred_batch_size == (2, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version_policy": {"specific": {"versions": [1, 3]}}},
        {"instance_group": [{"count": 1024}]},
        {"instance_group": [{"kind": "KIND_GPU", "gpus": [0, 1], "count": 2}]},
        dynamic(preferred_batch_size=[4, 8], priority_levels=2, default_priority_level=1),
        dynamic(preserve_ordering=True, default_queue_policy={"max_queue_size": 1}),
        length(mask_name="mask", unpad_output=["scores"], max_padding=0.5),
        length(strategy="BUCKET", bucket_boundaries=[8, 16], pad_value=-1),
        length(input=["text"]),
        control(kind="CONTROL_SEQUENCE_START", fp32_false_true=[0, 1]),
        control(kind="CONTROL_SEQUENCE_CORRID", data_type="TYPE_UINT64"),
        sequence(direct={"minimum_slot_utilization": 0.5}),
        state({"data_type": "TYPE_FP32", "dims": [2, 7], "zero_data": True, "name": "i"}),
        warmup(batch_size=8, count=2),
        {"batch_input": [{"target_name": ["N"], "source_input": ["ids"]}]},
        {"batch_output": [{"target_name": ["label"], "source_input": ["ids"]}]},
        {"metric_tags": {"team": "vision"}},
    ],
)
def test_a_sound_configuration_has_no_problem(changes: dict[str, Any]) -> None:
    """Neither as it was written nor with its defaults."""
    config = read_config({**SOUND, **changes})

    assert problems(config) == []
    assert problems(normalise(config)) == []
