"""Models that do not run packed: a text at a time, by generate(), token by token."""

import threading
from typing import Any

import pytest
import torch
import transformers

from penstock_runtime.errors import InstanceDied, Internal
from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.fallback import FallbackRunner
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.sampling_params import SamplingParams

PROMPT = [5, 6, 7]
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
SAMPLED = SamplingParams(temperature=1.0, ignore_eos=True)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def loaded() -> LoadedCausalModel:
    torch.manual_seed(0)
    config = transformers.StableLmConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return prepare(transformers.StableLmForCausalLM(config), EngineOptions())


def _generated(model: Any, count: int) -> list[int]:
    ids = torch.tensor([PROMPT])
    found: list[int] = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0].tolist()
    return found[len(PROMPT) :]


def test_the_tokens_are_those_of_generate(loaded: LoadedCausalModel) -> None:
    assert not loaded.paged

    tokens = list(FallbackRunner(loaded).stream(PROMPT, GREEDY, 12))

    assert tokens == _generated(loaded.model, 12)


def test_a_text_ends_with_the_token_that_ends_it(loaded: LoadedCausalModel) -> None:
    expected = _generated(loaded.model, 12)
    ending = SamplingParams(temperature=0.0, ignore_eos=True, stop_token_ids=(expected[4],))

    tokens = list(FallbackRunner(loaded).stream(PROMPT, ending, 12))

    assert tokens == expected[: expected.index(expected[4]) + 1]


def test_the_same_seed_gives_the_same_text(loaded: LoadedCausalModel) -> None:
    runner = FallbackRunner(loaded)

    one, same, other = (list(runner.stream(PROMPT, SAMPLED, 12, seed=n)) for n in (1, 1, 2))

    assert one == same != other


def test_a_closed_stream_ends_the_generation(loaded: LoadedCausalModel) -> None:
    runner = FallbackRunner(loaded)
    stream = runner.stream(PROMPT, GREEDY, 100_000)
    before = next(stream), next(stream)

    stream.close()  # type: ignore[attr-defined]

    assert list(before) == _generated(loaded.model, 2)
    assert "penstock-generate" not in {thread.name for thread in threading.enumerate()}
    assert list(runner.stream(PROMPT, GREEDY, 2)) == list(before)


def test_what_the_model_raises_reaches_who_takes_the_tokens(loaded: LoadedCausalModel) -> None:
    with pytest.raises(Internal):
        list(FallbackRunner(loaded).stream([10_000], GREEDY, 3))


def test_a_runner_whose_gpu_is_lost_says_how(
    loaded: LoadedCausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before whoever takes the tokens hears of it."""

    def generate(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(loaded.model, "generate", generate)
    runner = FallbackRunner(loaded)

    with pytest.raises(InstanceDied, match="has lost its GPU: misaligned address"):
        list(runner.stream(PROMPT, GREEDY, 3))

    assert runner.lost == "misaligned address"
