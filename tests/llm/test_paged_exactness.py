"""Packed over pages, a model says what it says by itself: token for token, whatever the other rows,
the chunks, preemptions and shared prefixes; in torch and in the CPU's own kernels.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.llm.plan_driver import PlanDriver
from tests.llm.tiny_models import FAMILIES, build, generated, prompts

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.cpu_kernels import kernels_for
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner

TOKENS = 10
BLOCK_SIZE = 4
# The model is not at fault that a test's context is shorter than the one it was made for.
pytestmark = pytest.mark.filterwarnings("ignore")
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks of 1": {"chunk": 1},
    "chunks of 7": {"chunk": 7},
    "chunks of 16": {"chunk": 16},
    "preempted": {"preempt_every": 3},
    "prefix hits": {"prefixes": True},
    "mixed arrivals": {"arrive_every": 3, "chunk": 5},
}


@cache
def _expected(family: str) -> list[list[int]]:
    return [generated(build(family), prompt, TOKENS) for prompt in prompts()]


@cache
def _loaded(family: str, kernels: str) -> LoadedCausalModel:
    return prepare(build(family), EngineOptions(block_size=BLOCK_SIZE, cpu_kernels=kernels))


def _driver(family: str, kernels: str, **how: Any) -> PlanDriver:
    options = EngineOptions(block_size=BLOCK_SIZE, cpu_kernels=kernels)
    return PlanDriver(PagedRunner(_loaded(family, kernels), options, 120), **how)


@pytest.fixture(params=["off", "auto"])
def kernels(request: pytest.FixtureRequest) -> str:
    wanted = str(request.param)
    if wanted == "auto" and kernels_for("auto", torch.device("cpu"), torch.float32) is None:
        pytest.skip("the CPU's kernels cannot be built here")
    return wanted


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_runs_packed_token_for_token_in_every_mode(family: str, kernels: str) -> None:
    loaded, wrong = _loaded(family, kernels), []

    for mode, how in MODES.items():
        driver = _driver(family, kernels, **how)
        rounds = 2 if driver.prefixes else 1
        made = []
        for _ in range(rounds):
            made += [driver.add(prompt, TOKENS) for prompt in prompts()]
            driver.run()
        if [sequence.tokens for sequence in made] != rounds * _expected(family):
            wrong.append(mode)

    assert loaded.paged, loaded.reason
    assert not wrong


def test_the_modes_do_what_they_say() -> None:
    preempted = _driver("Llama", "off", **MODES["preempted"])
    shared = _driver("Llama", "off", **MODES["prefix hits"])

    for driver in (preempted, shared):
        for prompt in prompts():
            driver.add(prompt, TOKENS)
        driver.run()
    shared.add(prompts()[2], TOKENS)
    shared.run()

    assert preempted.preemptions >= 3
    assert shared.cached >= 32


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_logprobs_are_those_of_a_full_forward(family: str, kernels: str) -> None:
    driver = _driver(family, kernels, chunk=5)
    sequences = [driver.add(prompt, TOKENS) for prompt in prompts()]

    driver.run()

    plain = build(family)
    for sequence in sequences:
        with torch.inference_mode():
            logits = plain(torch.tensor([sequence.tokens])).logits[0].float()
        expected = logits.log_softmax(-1)[sequence.n_prompt - 1 : -1]
        found = torch.stack(driver.logits[sequence.id])
        assert float((found - expected).abs().max()) < 1e-4


def test_a_text_alone_is_the_text_in_a_batch_to_the_last_bit_but_few(kernels: str) -> None:
    together, alone = (_driver("Qwen3", kernels) for _ in range(2))
    sequences = [together.add(prompt, TOKENS) for prompt in prompts()]
    together.run()

    same = alone.add(prompts()[1], TOKENS)
    alone.run()

    assert same.tokens == sequences[1].tokens
    found, expected = torch.stack(alone.logits[0]), torch.stack(together.logits[1])
    assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_fewer_bits_in_the_cache_move_the_logits_little(stored: str, kernels: str) -> None:
    """The bound is on the error of the distribution, as KL divergence of the first token."""
    exact = _driver("Llama", kernels)
    loaded = _loaded("Llama", kernels)
    options = EngineOptions(block_size=BLOCK_SIZE, cpu_kernels=kernels, kv_cache_dtype=stored)
    rough = PlanDriver(PagedRunner(loaded, options, 120), chunk=7)

    for driver in (exact, rough):
        for prompt in prompts():
            driver.add(prompt, 1)
        driver.run()

    for identity in range(len(prompts())):
        expected, found = exact.logits[identity][0], rough.logits[identity][0]
        divergence = float((expected.exp() * (expected - found)).sum())
        assert divergence < {"int8": 0.01, "fp8": 0.3}[stored]


def test_with_fewer_bits_it_does_not_matter_how_a_text_is_cut(kernels: str) -> None:
    loaded = _loaded("Llama", kernels)
    options = replace(
        EngineOptions(), block_size=BLOCK_SIZE, cpu_kernels=kernels, kv_cache_dtype="int8"
    )
    whole, cut = (PlanDriver(PagedRunner(loaded, options, 120), chunk=n) for n in (99, 5))

    for driver in (whole, cut):
        for prompt in prompts():
            driver.add(prompt, TOKENS)
        driver.run()

    for identity in range(len(prompts())):
        first, second = (torch.stack(driver.logits[identity]) for driver in (whole, cut))
        assert float((first - second).abs().max()) < 1e-3
