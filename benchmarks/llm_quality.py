"""What fewer bits cost and save: perplexity of the trained model of the tests on text that it never
saw, and the bytes of its weights and of its KV cache.

    python -m benchmarks.llm_quality
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from examples.tiny_text import held_out

from penstock_runtime.llm.model_loader import load_causal_model
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.perplexity import paged_perplexity
from penstock_runtime.llm.runner import PagedRunner, block_bytes
from penstock_runtime.llm.tokenizer import load_tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "llm" / "tiny_llm"
WINDOW, SIZE = 256, 16


@dataclass(frozen=True, slots=True)
class Case:
    """One way to hold a model."""

    name: str
    options: EngineOptions


CASES = (
    Case("fp32", EngineOptions(dtype="fp32")),
    Case("bf16", EngineOptions(dtype="bf16")),
    Case("int8 weights", EngineOptions(dtype="fp32", quantization="int8")),
    Case("int4 weights", EngineOptions(dtype="fp32", quantization="int4")),
    Case("int8 KV cache", EngineOptions(dtype="fp32", kv_cache_dtype="int8")),
    Case("fp8 KV cache", EngineOptions(dtype="fp32", kv_cache_dtype="fp8")),
    Case(
        "bf16, int8 weights, int8 KV cache",
        EngineOptions(dtype="bf16", quantization="int8", kv_cache_dtype="int8"),
    ),
)


def measure(case: Case, tokens: list[int]) -> tuple[float, int, int]:
    """Perplexity, bytes of the weights, bytes of the cache for each token."""
    model = load_causal_model(FOLDER, case.options)
    runner = PagedRunner(model, case.options, WINDOW // SIZE)
    found = paged_perplexity(runner, tokens, block_size=SIZE, window=WINDOW)
    return found, model.memory_bytes, block_bytes(model, case.options) // SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=64, help="windows of 256 tokens")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokens = load_tokenizer(FOLDER).encode(held_out())[: given.windows * WINDOW]
    print(f"{len(tokens)} tokens of sources that were held out, {WINDOW} at a time, 16 a step\n")
    print(f"{'':36}{'perplexity':>12}{'':>9}{'weights':>12}{'KV of a token':>16}")
    first = 0.0
    for case in CASES:
        found, weights, cache = measure(case, tokens)
        first = first or found
        change = f"{100 * (found / first - 1):+.2f} %"
        print(f"{case.name:36}{found:12.3f}{change:>9}{weights / 1e3:9.0f} kB{cache:14} B")


if __name__ == "__main__":
    main()
