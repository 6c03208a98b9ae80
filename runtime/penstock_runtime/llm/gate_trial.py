"""The last word on whether a model runs packed: a small packed run, in chunks and beside another
row, must give the logits that the model gives by itself.
"""

from dataclasses import replace
from typing import Any

import torch

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.gate import Refused
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan

TEXT_TOKENS = 13
BESIDE_TOKENS = 5
# Relative error of the logits; a mask or a position that is wrong makes it near 1.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}


def plain_logits(model: Any, vocab_size: int) -> torch.Tensor:
    """What the model gives by itself for the text of the trial: float32 [tokens, vocabulary]."""
    ids = torch.tensor([trial_text(vocab_size)], device=model.device)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float()


def trial_text(vocab_size: int) -> list[int]:
    """Some tokens, each once."""
    return [1 + (37 * place + 11) % (vocab_size - 1) for place in range(TEXT_TOKENS)]


def check_packed(model: LoadedCausalModel, options: EngineOptions, expected: torch.Tensor) -> None:
    """Raise Refused unless a packed run gives what was expected."""
    # Fewer bits in the cache have an error of their own, which is not what is looked for.
    options = replace(options, kv_cache_dtype="auto", cuda_graphs=False)
    runner = PagedRunner(model, options, 2 * -(-TEXT_TOKENS // options.block_size))
    found = torch.cat([runner.run(plan) for plan in _plans(model.vocab_size, options.block_size)])
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-9))
    if not error <= TOLERANCE.get(model.dtype, 0.1):
        raise Refused(f"a packed run of it is off by {error:.2g} of what it gives by itself")


def _plans(vocab_size: int, block_size: int) -> list[StepPlan]:
    """A text in chunks of 7, 5 and 1 tokens; another one runs beside its second and third."""
    text, beside = _sequences(trial_text(vocab_size), block_size)
    return [
        StepPlan((Row(text, 0, 7, logits=7),)),
        StepPlan((Row(text, 7, 5, logits=5), Row(beside, 0, BESIDE_TOKENS))),
        StepPlan((Row(beside, BESIDE_TOKENS, 1), Row(text, 12, 1, logits=1))),
    ]


def _sequences(tokens: list[int], block_size: int) -> tuple[Sequence, Sequence]:
    pages = -(-len(tokens) // block_size)
    both = []
    for place, prompt in enumerate((tokens, tokens[::-1])):
        sequence = Sequence(place, prompt, SamplingParams(), max_tokens=1)
        sequence.blocks = list(range(place, 2 * pages, 2))
        both.append(sequence)
    return both[0], both[1]
