"""What is said of a language model that its configuration leaves open."""

import logging
from typing import Any

import pytest

from penstock_runtime.config import ModelConfig, ModelInput, ModelParameter
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.completing import complete_config


def config(**parameters: str) -> ModelConfig:
    """A configuration with these parameters."""
    return ModelConfig("m", parameters={k: ModelParameter(v) for k, v in parameters.items()})


@pytest.mark.parametrize(
    ("described", "said", "told"),
    [
        ({"max_position_embeddings": 64}, {}, "64"),
        ({"n_positions": 32}, {}, "32"),
        ({"text_config": {"max_position_embeddings": 16}, "n_positions": 8}, {}, "16"),
        ({"max_position_embeddings": 64}, {"max_model_len": "48"}, "48"),
        ({"max_position_embeddings": 64}, {"max_model_len": "0"}, "64"),
        ({"max_position_embeddings": "many"}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_the_length_of_a_text_is_said_if_anything_says_it(
    described: dict[str, Any], said: dict[str, str], told: str
) -> None:
    """A configuration before the model's own file."""
    found = complete_config(config(**said), described)

    assert found.parameter("max_model_len") == told


def test_a_slip_of_the_pen_in_a_parameter_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        complete_config(config(max_num_seq="8", team="x"), {})

    assert caplog.messages == [
        "model 'm': the engine has no parameter 'max_num_seq', did you mean 'max_num_seqs'?"
    ]


def test_a_configuration_comes_to_all_tensors_and_any_number_of_responses() -> None:
    complete = complete_config(ModelConfig("m"), {"max_position_embeddings": 128})

    assert complete.decoupled
    assert complete.answers_whole
    assert complete.find_input("sampling_parameters") is not None
    assert complete.find_output("text_output") is not None
    assert complete.parameter("max_model_len") == "128"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (ModelConfig("m", dynamic_batching=DynamicBatching()), "dynamic_batching is set"),
        (ModelConfig("m", input=(ModelInput("X", DataType.FP32),)), "input 'X' is none of"),
        (config(block_size="x"), "block_size is 'x'"),
    ],
)
def test_what_makes_no_sense_for_a_language_model_is_refused(given: ModelConfig, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        complete_config(given, {})
