"""Drafts change how fast a text comes, and never what it is drawn from."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.sampling_fakes import (
    TableModel,
    assert_drawn_from,
    exact,
    generate,
    row_of,
    sample_one,
    sequence,
)

from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.ngram import NgramProposer
from penstock_runtime.llm.speculative.proposer import wanted_drafts
from penstock_runtime.llm.speculative.verify import SpeculationStats, match, reject
from penstock_runtime.llm.step import StepPlan

VOCAB = 16
ASKED = (
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repetition_penalty=1.2, frequency_penalty=0.3),
    SamplingParams(temperature=0, bad_words=("x",), min_tokens=9),
    SamplingParams(temperature=0.4),
    SamplingParams(temperature=0.7, top_k=5, top_p=0.9, presence_penalty=0.4),
)


class Oracle:
    """Proposes what the model is known to say, with every third draft wrong."""

    def __init__(self, texts: list[list[int]], tokens: int) -> None:
        self._texts = texts
        self._tokens = tokens

    def propose(self, sequences: Iterable[Sequence]) -> None:
        for text in sequences:
            done = len(text.tokens)
            whole = next(whole for whole in self._texts if whole[:done] == text.tokens)
            drafts = whole[done : done + wanted_drafts(text, self._tokens)]
            text.drafts = [
                draft if (done + i) % 3 else (draft + 1) % VOCAB for i, draft in enumerate(drafts)
            ]

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept."""


def texts() -> list[Sequence]:
    return [sequence(params, (i, 1, 2), seed=i, max_tokens=40) for i, params in enumerate(ASKED)]


def sampler() -> Sampler:
    return Sampler(VOCAB, [99], tokenise=lambda word: [5, 6])


@pytest.mark.parametrize("tokens", [1, 3, 6])
def test_a_text_is_the_same_with_drafts_and_without(tokens: int) -> None:
    """Greedy or drawn, with penalties or words that may not come, in fewer steps."""
    model = TableModel(VOCAB)
    plain, lookup, oracle = texts(), texts(), texts()
    speculating = sampler()

    steps = generate(sampler(), model, plain)
    wanted = [text.tokens for text in plain]
    generate(speculating, model, lookup, NgramProposer(tokens, least=1))
    fewer = generate(sampler(), model, oracle, Oracle(wanted, tokens))

    assert [text.tokens for text in lookup] == wanted
    assert [text.tokens for text in oracle] == wanted
    assert fewer < steps
    stats = speculating.speculation
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert sum(stats.accepted_per_position) == stats.accepted_tokens


def test_a_known_draft_is_accepted_with_its_probability() -> None:
    """And what replaces it comes from the rest: all in all, the model's distribution."""
    logits = np.random.default_rng(8).normal(0, 1.2, VOCAB)
    params = SamplingParams(top_k=10)
    p, draft = exact(logits, params), int(np.argsort(logits)[-2])
    rows = torch.from_numpy(logits).float().repeat(1000, 1)
    one, tokens, accepted = sampler(), [], 0

    for turn in range(10):
        drawn = [sequence(params, seed=turn * 500 + i) for i in range(500)]
        for text in drawn:
            text.drafts = [draft]
        results = one.sample(StepPlan(tuple(map(row_of, drawn))), rows)
        tokens += [result.tokens[0] for result in results]
        accepted += sum(len(result.tokens) == 2 for result in results)

    assert accepted == tokens.count(draft)
    assert_drawn_from(tokens, p)


@pytest.mark.parametrize("likeness", [0.0, 0.6, 1.0])
def test_rejection_leaves_the_distribution_as_it_is(likeness: float) -> None:
    """Of the first token and of the second, whatever the drafts were drawn from."""
    rng, count = np.random.default_rng(9), 6000
    p = rng.dirichlet(np.full(6, 0.7), 3)
    p[0, 3] = 0
    p /= p.sum(-1, keepdims=True)
    q = likeness * p[:2] + (1 - likeness) * rng.dirichlet(np.full(6, 0.7), 2)
    drafts = np.stack([rng.choice(6, count, p=row) for row in q], axis=1).tolist()
    bonus = rng.choice(6, count, p=p[2]).tolist()
    target, proposed = torch.from_numpy(p), torch.from_numpy(q)

    texts = [reject(target, proposed, drafts[i], bonus[i], i, 5) for i in range(count)]

    for place in range(3):
        # Later tokens come only where the drafts before them stood, which tells nothing of them.
        assert_drawn_from([text[place] for text in texts if len(text) > place], p[place])
    whole = sum(len(text) == 3 for text in texts) / count
    overlap = np.minimum(p[:2], q).sum(-1).prod()
    assert whole == pytest.approx(overlap, abs=0.03)


class Known:
    """Knows a distribution of every sequence's drafts."""

    def __init__(self, q: torch.Tensor) -> None:
        self._q = q

    def distributions(self, sequence: Sequence) -> torch.Tensor | None:
        return self._q


def test_drafts_with_their_distributions_are_judged_by_them() -> None:
    """What the model never says is rejected, what it always says stands, greedy rows match."""
    q = torch.full((2, VOCAB), 1 / VOCAB)
    one = Sampler(VOCAB, proposals=Known(q))
    logits = torch.full((3, VOCAB), -torch.inf)
    logits[0, 4] = logits[1, 5] = logits[2, 6] = 0

    for params in (SamplingParams(), SamplingParams(temperature=0)):
        right, wrong = sequence(params), sequence(params)
        right.drafts, wrong.drafts = [4, 5], [4, 6]
        assert sample_one(one, right, logits).tokens == [4, 5, 6]
        assert sample_one(one, wrong, logits).tokens == [4, 5]


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0)])
def test_nothing_follows_a_token_that_ends_the_sequence(params: SamplingParams) -> None:
    """The end of a sequence may be foreseen, but nothing behind it."""
    logits = torch.full((4, VOCAB), -torch.inf)
    logits[0, 4] = logits[1, 9] = logits[2, 6] = logits[3, 7] = 0
    for one in (Sampler(VOCAB, [9]), Sampler(VOCAB, [9], proposals=Known(torch.ones(3, VOCAB)))):
        text = sequence(params)
        text.drafts = [4, 9, 6]

        assert sample_one(one, text, logits).tokens == [4, 9]
        assert one.speculation == SpeculationStats(1, 3, 2, [1, 1, 0])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_matching_keeps_the_common_start_and_one_more(drawn: list[int], drafts: list[int]) -> None:
    """The model's own tokens in any case."""
    tokens = match(drawn, drafts[: len(drawn) - 1])

    assert tokens == drawn[: len(tokens)]
    assert tokens[:-1] == drafts[: len(tokens) - 1]
    assert len(tokens) == len(drawn) or tokens[-1] != drafts[len(tokens) - 1]
