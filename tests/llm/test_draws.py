"""Draws come from exactly the distribution that is asked for, whatever else is in the batch."""

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
    sample_one,
    sequence,
)

from penstock_runtime.llm.cuts import HEAD, Cuts, cut
from penstock_runtime.llm.race import race
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence

DRAWS = 100_000
ASKED = {
    "plain": SamplingParams(),
    "cold": SamplingParams(temperature=0.5),
    "top-k": SamplingParams(top_k=7),
    "top-p": SamplingParams(top_p=0.8),
    "min-p": SamplingParams(min_p=0.05),
    "typical": SamplingParams(typical_p=0.6),
    "min-p, top-k, top-p": SamplingParams(temperature=1.7, min_p=0.01, top_k=20, top_p=0.9),
    "top-k, typical": SamplingParams(top_k=15, typical_p=0.5),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("vocab_size", [40, 2 * HEAD])
def test_draws_have_the_exact_distribution(name: str, vocab_size: int) -> None:
    """With the whole vocabulary in the head, and with as much again behind it."""
    params = ASKED[name]
    logits = np.random.default_rng(1).normal(0, 1, vocab_size).astype(np.float32)
    kept = cut(torch.from_numpy(logits).repeat(100, 1), Cuts.of([params] * 100))
    tokens: list[int] = []
    for start in range(0, DRAWS, 100):
        tokens += race(kept, [9] * 100, range(start, start + 100))

    assert_drawn_from(tokens, exact(logits, params))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    vocab_size=st.sampled_from([3, HEAD, HEAD + 1, 300, 6000]),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.3, 1.0, 2.0]),
        top_k=st.sampled_from([0, 1, 5, HEAD, HEAD + 1, 200, 5000]),
        top_p=st.sampled_from([1.0, 0.99, 0.7, 0.01]),
        min_p=st.sampled_from([0.0, 0.001, 0.2, 1.0]),
        typical_p=st.sampled_from([1.0, 0.9, 0.2]),
    ),
)
def test_cuts_keep_what_the_slow_way_keeps(
    seed: int, vocab_size: int, spread: float, params: SamplingParams
) -> None:
    """Whether a head settles them or the row is sorted."""
    logits = np.random.default_rng(seed).normal(0, spread, (3, vocab_size)).astype(np.float32)

    kept = cut(torch.from_numpy(logits.copy()), Cuts.of([params] * 3))

    found = kept.probabilities(np.arange(3)).numpy()
    for row, distribution in zip(logits, found, strict=True):
        wanted = exact(row, params)
        # Single precision may decide otherwise at the very edge of the mass.
        assert np.count_nonzero((distribution > 0) != (wanted > 0)) <= 1 + vocab_size // 1000
        assert np.abs(distribution - wanted).max() < 2e-3
        if params.top_p == params.typical_p == 1:
            np.testing.assert_allclose(distribution, wanted, atol=1e-6)


def test_equal_logits_are_all_kept_and_equally_likely() -> None:
    """A cut does not choose between equals."""
    kept = cut(torch.zeros(1, 3 * HEAD), Cuts.of([SamplingParams(top_k=5, top_p=0.1)]))

    assert np.ptp(kept.probabilities(np.arange(1)).numpy()) < 1e-9


def test_the_same_seed_gives_the_same_text_in_any_batch_and_order() -> None:
    """Alone, together, in reverse, with a neighbour of another kind."""
    model = TableModel(4 * HEAD)
    asked = [*ASKED.values(), SamplingParams(temperature=0), SamplingParams(repetition_penalty=2)]

    def texts() -> list[Sequence]:
        return [sequence(params, (i, 2, 3), seed=i) for i, params in enumerate(asked)]

    alone, together, reverse = texts(), texts(), texts()
    for text in alone:
        generate(Sampler(4 * HEAD), model, [text])
    generate(Sampler(4 * HEAD), model, together)
    generate(Sampler(4 * HEAD), model, reverse[::-1])

    assert [text.tokens for text in alone] == [text.tokens for text in together]
    assert [text.tokens for text in alone] == [text.tokens for text in reverse]


def test_another_seed_gives_another_text() -> None:
    """And a seed may be any integer of 64 bits."""
    model = TableModel(50)
    texts = [sequence(SamplingParams(), seed=seed) for seed in (0, 1, -1, 2**63, 2**64 - 2)]

    generate(Sampler(50), model, texts)

    assert len({tuple(text.tokens) for text in texts}) == len(texts)


def test_a_temperature_that_is_next_to_nothing_takes_the_likeliest() -> None:
    """It does not overflow."""
    logits = np.array([[1e30, 2e30, 0.0]])

    for temperature in (0.0, 1e-30, 1e-5):
        text = sequence(SamplingParams(temperature=temperature))
        assert sample_one(Sampler(3), text, logits).tokens == [1]
