"""Each row of a step gets its own result: tokens, log probabilities, or an error."""

import numpy as np
import pytest
import torch
from tests.llm.sampling_fakes import TableModel, row_of, sample_one, sequence

from penstock_runtime.errors import Internal
from penstock_runtime.llm.logprobs import TokenLogprobs
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.step import Row, StepPlan

VOCAB = 100
GREEDY = SamplingParams(temperature=0)


def assert_logprobs(found: TokenLogprobs, logits: torch.Tensor, token: int, top: int) -> None:
    wanted = logits.double().log_softmax(-1)
    order = wanted.argsort(descending=True).tolist()
    assert found.token == token
    assert found.logprob == pytest.approx(float(wanted[token]), abs=1e-5)
    assert found.rank == order.index(token) + 1
    assert [entry.token for entry in found.top] == order[:top]
    assert [entry.rank for entry in found.top] == list(range(1, top + 1))
    for entry in found.top:
        assert entry.logprob == pytest.approx(float(wanted[entry.token]), abs=1e-5)


@pytest.mark.parametrize("top", [0, 3, -1, 500])
def test_logprobs_are_the_models_before_anything_is_done_to_its_logits(top: int) -> None:
    """Of the chosen token, with its rank, and of so many of the likeliest; -1 is all of them."""
    params = SamplingParams(
        logprobs=top, temperature=3, top_k=50, logit_bias={4: 5.0}, repetition_penalty=2
    )
    logits = torch.from_numpy(np.random.default_rng(2).normal(0, 2, (3, VOCAB))).float()
    texts = [sequence(params, seed=1), sequence(GREEDY), sequence(params, seed=2)]

    results = Sampler(VOCAB).sample(StepPlan(tuple(map(row_of, texts))), logits)

    wanted = VOCAB if top in (-1, 500) else top
    for i in (0, 2):
        (found,) = results[i].logprobs
        assert_logprobs(found, logits[i], results[i].tokens[0], wanted)
    assert results[1].logprobs == []


def test_each_accepted_token_has_its_logprobs() -> None:
    """Drafts that stand, and the one after."""
    logits = torch.from_numpy(np.random.default_rng(3).normal(0, 2, (4, VOCAB))).float()
    text = sequence(SamplingParams(temperature=0, logprobs=2))
    best = logits.argmax(-1).tolist()
    text.drafts = [best[0], best[1], (best[2] + 1) % VOCAB]

    result = sample_one(Sampler(VOCAB), text, logits)

    assert result.tokens == best[:3]
    for i, found in enumerate(result.logprobs):
        assert_logprobs(found, logits[i], best[i], 2)


@pytest.mark.parametrize("chunk", [1, 4, 70, 100])
def test_prompt_logprobs_come_once_for_each_token_but_the_first(chunk: int) -> None:
    """However the prompt is cut up, and though half of it is computed twice."""
    prompt = np.random.default_rng(4).integers(0, VOCAB, 90).tolist()
    text = sequence(SamplingParams(temperature=0, prompt_logprobs=1), prompt)
    model, sampler = TableModel(VOCAB), Sampler(VOCAB)
    found: list[TokenLogprobs] = []

    starts = [*range(0, 45, chunk), *range(0, 90, chunk)]
    for start in starts:
        count = min(chunk, 90 - start)
        last = start + count == 90
        plan = StepPlan((Row(text, start, count, logits=count, samples=last),))
        (result,) = sampler.sample(plan, model.run(plan))
        found += result.prompt_logprobs
        assert len(result.tokens) == last

    whole = model.run(StepPlan((Row(text, 0, 90, logits=90),)))
    assert len(found) == 89
    for i, entry in enumerate(found):
        assert_logprobs(entry, whole[i], prompt[i + 1], 1)


def test_rows_that_do_not_sample_have_empty_results_in_their_places() -> None:
    """Their logits are not there either."""
    texts = [sequence(GREEDY, range(20)) for _ in range(3)]
    rows = (row_of(texts[0]), Row(texts[1], 0, 10), row_of(texts[2]))

    for _ in range(2):
        results = Sampler(VOCAB).sample(StepPlan(rows), torch.eye(2, VOCAB))
        assert [result.tokens for result in results] == [[0], [], [1]]
    assert Sampler(VOCAB).sample(StepPlan(), torch.empty(0, VOCAB)) == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    "params",
    [GREEDY, SamplingParams(), SamplingParams(top_p=0.5), SamplingParams(logit_bias={1: 2.0})],
)
def test_logits_that_are_no_numbers_fail_their_own_row_only(
    bad: float, params: SamplingParams
) -> None:
    """At any place; the neighbours' tokens are those of a step without it."""
    sampler, texts = Sampler(VOCAB), [sequence(params, seed=i) for i in range(3)]
    plan = StepPlan(tuple(map(row_of, texts)))
    logits = torch.from_numpy(np.random.default_rng(6).normal(0, 1, (3, VOCAB))).float()

    for _ in range(2):  # the second step of greedy rows is the short way
        good = sampler.sample(plan, logits.clone())
        broken = logits.clone()
        broken[1, 77] = bad
        results = sampler.sample(plan, broken)
        assert [result.tokens for result in results] == [good[0].tokens, [], good[2].tokens]
        assert isinstance(results[1].error, Internal)
        assert "position 3" in results[1].error.message


def test_minus_infinity_is_never_drawn_and_no_error() -> None:
    """Some models pad their vocabulary with it; all of it is an error."""
    logits = torch.full((1, VOCAB), -torch.inf)

    for params in (GREEDY, SamplingParams(), SamplingParams(typical_p=0.5, top_p=0.9)):
        assert sample_one(Sampler(VOCAB), sequence(params), logits).error is not None
        logits[0, 42] = -5
        assert sample_one(Sampler(VOCAB), sequence(params), logits).tokens == [42]
        logits[0, 42] = -torch.inf


def test_a_prompt_whose_logits_are_no_numbers_fails() -> None:
    """Its logprobs would be none."""
    text = sequence(SamplingParams(prompt_logprobs=0), range(5))
    plan = StepPlan((Row(text, 0, 3, logits=3),))

    (result,) = Sampler(VOCAB).sample(plan, torch.full((3, VOCAB), torch.nan))

    assert isinstance(result.error, Internal)


def test_logits_wider_than_the_vocabulary_are_padding() -> None:
    """Rounded up for the sake of a kernel."""
    logits = torch.eye(VOCAB + 28)[[VOCAB + 5]]

    assert sample_one(Sampler(VOCAB), sequence(GREEDY), logits).tokens == [0]
    with pytest.raises(ValueError, match="128 tokens, expected 129"):
        sample_one(Sampler(129), sequence(GREEDY), logits)


def test_what_is_forgotten_may_come_back() -> None:
    """State is made anew from the text."""
    sampler = Sampler(VOCAB)
    text = sequence(SamplingParams(temperature=0, frequency_penalty=2.0))
    logits = torch.eye(2, VOCAB)[[1]] * 3
    text.tokens += [1, 1]

    first = sample_one(sampler, text, logits)
    sampler.forget(text)
    sampler.forget(text)

    assert sample_one(sampler, text, logits).tokens == first.tokens == [0]
