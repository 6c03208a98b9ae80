"""How a model is sampled where a request does not say."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sampling_defaults import sampling_defaults
from penstock_runtime.llm.sampling_params import SamplingParams

HOT: dict[str, Any] = {
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 50,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
}


def defaults(folder: Path, document: Any = None, **options: Any) -> SamplingParams:
    if document is not None:
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / "generation_config.json").write_text(text)
    return sampling_defaults("m", folder, EngineOptions(**options))


def test_the_models_file_says_how(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What else is in it says nothing of sampling here; the log tells what holds."""
    with caplog.at_level(logging.INFO, "penstock.llm"):
        found = defaults(
            tmp_path, {**HOT, "max_new_tokens": 7, "eos_token_id": 2, "do_sample": True}
        )

    assert found == SamplingParams(**HOT)
    assert "sampled with temperature 0.6, top_p 0.9" in caplog.text


def test_an_operator_may_not_want_that(tmp_path: Path) -> None:
    """And says how long answers are, either way."""
    assert defaults(tmp_path, HOT, generation_config="none") == SamplingParams()
    assert defaults(tmp_path, default_max_tokens=80) == SamplingParams(**HOT, max_tokens=80)


def test_a_model_without_such_a_file_is_sampled_as_it_learned(tmp_path: Path) -> None:
    """So is one whose file leaves it open."""
    assert defaults(tmp_path) == SamplingParams()
    assert defaults(tmp_path, {"temperature": None}) == SamplingParams()


@pytest.mark.parametrize(
    ("document", "options", "said"),
    [
        ({"top_p": 3}, {}, "model 'm': generation_config.json: sampling parameter 'top_p' is 3"),
        ("[]", {}, "generation_config.json"),
        ({}, {"generation_config": "vllm"}, "is 'vllm', expected one of auto, none"),
    ],
)
def test_what_makes_no_sense_refuses_the_model(
    tmp_path: Path, document: Any, options: dict[str, Any], said: str
) -> None:
    """By its name."""
    with pytest.raises(InvalidArgument, match=said):
        defaults(tmp_path, document, **options)
