"""Greedy texts of whole engines, token for token those of transformers' generate()."""

import json
from typing import Any

import pytest
import torch
from tests.llm import tiny_models
from tests.llm.engine_cases import COUNT, OPTIONS, SIZE, case, in_company
from tests.llm.engine_cases import one_thread as one_thread
from tests.llm.engine_driver import WANTED, Asked, Driver, drive

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.speculative.draft import DraftProposer
from penstock_runtime.llm.speculative.ngram import NgramProposer

FAMILIES = list(tiny_models.FAMILIES)
CORE = ["Llama", "Qwen3", "Mistral", "Gemma2"]


def engine(family: str, blocks: int = 128, **more: Any) -> Driver:
    """An engine of this family's model."""
    model, *_ = case(family)
    runner = PagedRunner(model, OPTIONS, blocks)
    return drive(runner, model.vocab_size, blocks=blocks, size=SIZE, **more)


def ask_all(driver: Driver, prompts: list[list[int]], **params: Any) -> list[Asked]:
    return [driver.ask(prompt, max_tokens=COUNT, **params) for prompt in prompts]


def texts(asked: list[Asked]) -> list[list[int]]:
    return [each.ids for each in asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_generates_what_generate_does_whatever_comes_between(family: str) -> None:
    """Mixed arrivals, chunks, a pool that is too small, guesses, and neighbours that are cancelled,
    all at once.
    """
    _, prompts, wanted = case(family)
    driver = engine(family, blocks=17, tokens=9, seqs=5, proposer=NgramProposer(3))

    asked = in_company(driver, prompts)

    assert texts(asked) == wanted
    driver.assert_empty()


@pytest.mark.parametrize("family", CORE)
@pytest.mark.parametrize("tokens", [256, 16, 7, 1])
def test_texts_do_not_depend_on_how_prompts_are_cut(family: str, tokens: int) -> None:
    """As a whole, and in chunks."""
    _, prompts, wanted = case(family)
    driver = engine(family, tokens=tokens)

    asked = ask_all(driver, prompts)
    driver.run()

    assert texts(asked) == wanted
    driver.assert_empty()


@pytest.mark.parametrize("family", CORE)
def test_texts_do_not_depend_on_who_had_to_give_way(family: str) -> None:
    """In a pool that holds little more than the longest of them."""
    _, prompts, wanted = case(family)
    driver = engine(family, blocks=-(-(33 + COUNT) // SIZE) + 1, caching=False)

    asked = ask_all(driver, prompts * 3)
    driver.run()

    assert driver.engine.stats().preemptions >= 5
    assert texts(asked) == wanted * 3
    driver.assert_empty()


@pytest.mark.parametrize("family", CORE)
def test_texts_do_not_depend_on_what_was_in_the_cache(family: str) -> None:
    """Asked a second time, prompts are not computed again."""
    _, prompts, wanted = case(family)
    driver = engine(family)

    ask_all(driver, prompts)
    driver.run()
    before = driver.engine.stats().prefix_hits
    asked = ask_all(driver, prompts)
    driver.run()

    assert driver.engine.stats().prefix_hits - before >= sum(
        (len(prompt) - 1) // SIZE * SIZE for prompt in prompts
    )
    assert texts(asked) == wanted
    driver.assert_empty()


@pytest.mark.parametrize("family", CORE)
def test_a_text_alone_is_what_it_is_in_company(family: str) -> None:
    """Greedy, and at random by its seed."""
    _, prompts, wanted = case(family)
    hot: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "top_k": 30}
    driver = engine(family)

    together = [
        driver.ask(prompt, max_tokens=COUNT, seed=seed, **(hot if seed % 2 else {}))
        for seed, prompt in enumerate(prompts)
    ]
    driver.run()
    alone = []
    for seed, prompt in enumerate(prompts):
        alone.append(driver.ask(prompt, max_tokens=COUNT, seed=seed, **(hot if seed % 2 else {})))
        driver.run()

    assert texts(together) == texts(alone)
    assert texts(alone)[::2] == wanted[::2]
    assert texts(alone)[1::2] != wanted[1::2]


@pytest.mark.parametrize("family", CORE)
def test_guesses_change_no_text_and_save_steps(family: str) -> None:
    """Prompts that repeat themselves give many right guesses; random texts go on as they are."""
    model, prompts, _ = case(family)
    prompts = [(prompt * 4)[:24] for prompt in prompts[:3]]
    plain, guessing = engine(family), engine(family, proposer=NgramProposer(4))
    hot = {"temperature": 0.8, "seed": 11}

    expected = [*ask_all(plain, prompts), *ask_all(plain, prompts, **hot)]
    plain.run()
    asked = [*ask_all(guessing, prompts), *ask_all(guessing, prompts, **hot)]
    guessing.run()

    assert texts(asked) == texts(expected)
    assert guessing.tally.snapshot().counters()["spec_decode_num_drafts_total"] > 0
    guessing.assert_empty()
    del model


@pytest.mark.parametrize("family", CORE[:2])
def test_the_guesses_of_a_small_model_change_no_text(family: str) -> None:
    """One that is often wrong, with little room of its own, in a tight pool; by a seed as well."""
    model, prompts, wanted = case(family)
    small = prepare(tiny_models.build(family, num_hidden_layers=1), OPTIONS)
    hot: dict[str, Any] = {"temperature": 0.8, "seed": 11}
    proposers = [
        DraftProposer(
            PagedRunner(each, OPTIONS, 30),
            vocab_size=model.vocab_size,
            n_blocks=30,
            block_size=SIZE,
            tokens=3,
        )
        for each in (model, small)
    ]
    plain = engine(family)
    expected = ask_all(plain, prompts, **hot)
    plain.run()

    for proposer in proposers:
        driver = engine(family, blocks=20, proposer=proposer, proposals=proposer)
        asked = [*ask_all(driver, prompts), *ask_all(driver, prompts, **hot)]
        free = ask_all(driver, prompts[:3], temperature=1.0)
        driver.run()

        assert texts(asked) == wanted + texts(expected)
        assert all(len(each.ids) == COUNT for each in free)
        assert driver.tally.snapshot().counters()["spec_decode_num_accepted_tokens_total"] > 0
        driver.assert_empty()
        assert len(proposer._free) == 30


@pytest.mark.parametrize("family", CORE)
def test_logprobs_are_those_of_a_full_forward(family: str) -> None:
    """Of chosen tokens and of the prompt's, within 1e-4, in chunks and with guesses."""
    model, prompts, wanted = case(family)
    driver = engine(family, tokens=7, proposer=NgramProposer(3))
    names = (*WANTED, "logprobs", "prompt_logprobs")

    asked = [
        driver.ask(p, max_tokens=COUNT, logprobs=2, prompt_logprobs=1, outputs=names, stream=False)
        for p in prompts[:3]
    ]
    driver.run()

    for each, prompt, answer in zip(asked, prompts, wanted, strict=False):
        expected = full_logprobs(model, prompt + answer)
        (found,) = each.task.answers
        chosen = json.loads(found["logprobs"][0])
        told = json.loads(found["prompt_logprobs"][0])
        assert [len(entry) in (2, 3) for entry in chosen] == [True] * COUNT
        assert told[0] is None
        for token, row, entry in zip(prompt[1:] + answer, expected, told[1:] + chosen, strict=True):
            assert entry[str(token)]["logprob"] == pytest.approx(row[token], abs=1e-4)
            assert entry[str(token)]["rank"] == sum(x >= row[token] for x in row)


def full_logprobs(model: LoadedCausalModel, tokens: list[int]) -> list[list[float]]:
    """Those of each token but the first, from one forward over the whole text."""
    module = model.model
    module.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = module(torch.tensor([tokens])).logits[0, :-1]
    found: list[list[float]] = logits.log_softmax(-1).tolist()
    return found
