"""The runner: the logits that the rows want, in their order, and nothing else."""

import pytest
import torch
from tests.llm.tiny_models import VOCAB, build, prompts

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner, block_bytes
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import Row, StepPlan

OPTIONS = EngineOptions(block_size=4, cpu_kernels="off")


@pytest.fixture(scope="module")
def loaded() -> LoadedCausalModel:
    return prepare(build("Llama"), OPTIONS)


def _sequence(prompt: list[int], first: int) -> Sequence:
    sequence = Sequence(first, prompt, SamplingParams(), max_tokens=4)
    sequence.blocks = list(range(first, first + -(-(len(prompt) + 4) // 4)))
    return sequence


def _plain(tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = build("Llama")(torch.tensor([tokens])).logits[0]
    return logits


def test_the_logits_are_the_wanted_ones_of_all_rows_in_their_order(
    loaded: LoadedCausalModel,
) -> None:
    first, second, third = (_sequence(prompts()[n], 20 * n) for n in (0, 1, 2))
    rows = (Row(first, 0, 3, logits=1), Row(second, 0, 17, logits=17), Row(third, 0, 20))

    logits = PagedRunner(loaded, OPTIONS, 60).run(StepPlan(rows))

    expected = torch.cat((_plain(prompts()[0])[-1:], _plain(prompts()[1])))
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected, atol=1e-4)


def test_proposed_tokens_are_computed_in_their_places(loaded: LoadedCausalModel) -> None:
    sequence = _sequence(prompts()[1], 0)
    sequence.drafts = [3, 4, 5]
    runner = PagedRunner(loaded, OPTIONS, 10)
    runner.run(StepPlan((Row(sequence, 0, 16),)))

    logits = runner.run(StepPlan((Row(sequence, 16, 4, drafts=3, logits=4, samples=True),)))

    expected = _plain([*prompts()[1], 3, 4, 5])[-4:]
    assert torch.allclose(logits, expected, atol=1e-4)


def test_what_was_proposed_and_dropped_leaves_no_trace(loaded: LoadedCausalModel) -> None:
    sequence = _sequence(prompts()[1], 0)
    sequence.drafts = [3, 4, 5]
    runner = PagedRunner(loaded, OPTIONS, 10)
    runner.run(StepPlan((Row(sequence, 0, 20, drafts=3, logits=4),)))
    sequence.drafts = []
    sequence.tokens.append(9)

    logits = runner.run(StepPlan((Row(sequence, 17, 1, logits=1),)))

    assert torch.allclose(logits, _plain([*prompts()[1], 9])[-1:], atol=1e-4)


def test_a_step_that_wants_no_logits_has_none(loaded: LoadedCausalModel) -> None:
    runner = PagedRunner(loaded, OPTIONS, 10)

    for rows in ((), (Row(_sequence([1, 2, 3], 0), 0, 2),)):
        assert runner.run(StepPlan(rows)).shape == (0, VOCAB)


def test_a_pool_is_as_large_as_it_was_sized(loaded: LoadedCausalModel) -> None:
    runner = PagedRunner(loaded, OPTIONS, 10)

    # Two layers, keys and values, four tokens, two heads of eight floats.
    assert block_bytes(loaded, OPTIONS) == 2 * 2 * 4 * 2 * 8 * 4
    assert runner.memory_bytes == 10 * runner.block_bytes(loaded, OPTIONS)
