"""The gate: which models run packed, and by what name another is refused."""

from typing import Any

import pytest
import torch
import transformers
from tests.llm.tiny_models import build

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm import gate_trial
from penstock_runtime.llm.gate import Refused, layer_shapes
from penstock_runtime.llm.kv_pool import LayerShape
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner

OPTIONS = EngineOptions(block_size=4, cpu_kernels="off")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_shapes_of_layers_are_what_they_hand_to_their_attention() -> None:
    shapes = layer_shapes(build("Gemma2"), 64)

    assert shapes == tuple(LayerShape(2, 8, 8, window) for window in (12, None, 12, None))


def _bloom() -> Any:
    config = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)
    return transformers.BloomForCausalLM(config)


def _mamba() -> Any:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1)
    return transformers.MambaForCausalLM(config)


def _crossing() -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=2, add_cross_attention=True
    )
    return transformers.GPT2LMHeadModel(config)


def _dynamic() -> Any:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return build("Llama", rope_parameters=rope)


def _chunked() -> Any:
    model = build("Llama")
    model.config.layer_types = ["full_attention", "chunked_attention"]
    return model


def _silent_window() -> Any:
    model = build("Llama")
    model.config.layer_types = ["full_attention", "sliding_attention"]
    model.config.sliding_window = 8
    return model


REFUSED = {
    "BloomForCausalLM does not support the attention interface": _bloom,
    "it has recurrent layers": _mamba,
    "it has cross attention": _crossing,
    r"its rotary embedding \(dynamic\) changes with the length of a text": _dynamic,
    "it has layers of type chunked_attention": _chunked,
    "layer 1 is of type sliding_attention and says a window of None, expected 8": _silent_window,
}


@pytest.mark.parametrize("reason", list(REFUSED))
def test_a_model_that_does_not_run_packed_is_refused_by_name(reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        layer_shapes(REFUSED[reason](), 300)


def test_a_model_whose_packed_run_is_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gate_trial.plain_logits
    monkeypatch.setattr(
        gate_trial, "plain_logits", lambda model, vocabulary: plain(model, vocabulary).flip(0)
    )

    loaded = prepare(build("Llama"), OPTIONS)

    assert not loaded.paged
    assert "a packed run of it is off by" in loaded.reason


def test_a_refused_model_still_runs_by_itself() -> None:
    model = _bloom()
    before = model(torch.tensor([[1, 2, 3]])).logits

    loaded = prepare(model, OPTIONS)

    assert not loaded.paged
    assert loaded.reason == "BloomForCausalLM does not support the attention interface"
    assert torch.equal(loaded.model(torch.tensor([[1, 2, 3]])).logits, before)
    with pytest.raises(InvalidArgument, match="does not run over pages: BloomForCausalLM"):
        PagedRunner(loaded, OPTIONS, 8)


def test_a_long_rope_within_its_first_length_runs_packed() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    }
    model = build("Phi3", rope_parameters=rope, original_max_position_embeddings=64)

    assert layer_shapes(model, 64)
    with pytest.raises(Refused, match=r"longrope.* beyond 64, and max_model_len is 256"):
        layer_shapes(model, 256)
