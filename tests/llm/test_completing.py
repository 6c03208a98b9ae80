"""What is said of a language model that its configuration leaves open."""

from typing import Any

import pytest

from penstock_runtime.config import ModelConfig, ModelParameter
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
