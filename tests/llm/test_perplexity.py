"""What a KV cache of fewer bits costs by perplexity, on the trained model."""

from pathlib import Path

import pytest
import torch
from examples.tiny_text import held_out
from transformers import AutoModelForCausalLM

from penstock_runtime.llm.model_loader import load_causal_model
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.perplexity import paged_perplexity, perplexity
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.tokenizer import load_tokenizer

FOLDER = Path(__file__).resolve().parent / "tiny_llm"
WINDOW, SIZE = 128, 16


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    torch.set_num_threads(1)
    return load_tokenizer(FOLDER).encode(held_out()[:60_000])[: 16 * WINDOW]


def paged(tokens: list[int], kv_cache_dtype: str) -> float:
    options = EngineOptions(dtype="fp32", kv_cache_dtype=kv_cache_dtype)
    runner = PagedRunner(load_causal_model(FOLDER, options), options, WINDOW // SIZE)
    return paged_perplexity(runner, tokens, block_size=SIZE, window=WINDOW)


def test_over_pages_a_model_foretells_a_text_as_well_as_without(tokens: list[int]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()

    assert paged(tokens, "auto") == pytest.approx(perplexity(plain, tokens, WINDOW), rel=1e-4)


@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_a_cache_of_eight_bits_costs_less_than_a_hundredth(stored: str, tokens: list[int]) -> None:
    assert paged(tokens, stored) < 1.01 * paged(tokens, "auto")
