"""N-gram drafts continue what the text's end was followed by before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.sampling_fakes import sequence

from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.speculative.ngram import NgramProposer


def drafts(tokens: list[int], most: int = 4, **options: int) -> list[int]:
    text = decoding(tokens)
    NgramProposer(most, **options).propose([text])
    return text.drafts


def decoding(tokens: list[int], max_tokens: int = 100) -> Sequence:
    text = sequence(SamplingParams(), tokens, max_tokens=max_tokens)
    text.n_computed = len(tokens) - 1
    return text


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2], [3, 4, 5, 6]),
        ([1, 2, 3, 4, 5], []),
        ([1, 2], []),
        ([7], []),
        # The latest of equals, but the longest before it.
        ([1, 2, 8, 1, 2, 9, 1, 2], [9, 1, 2, 9]),
        ([5, 1, 2, 8, 1, 2, 9, 5, 1, 2], [8, 1, 2, 9]),
        # A repetition goes on into what is proposed.
        ([4, 4, 4], [4, 4, 4, 4]),
        ([1, 2, 3, 1, 2, 3, 1, 2], [3, 1, 2, 3]),
    ],
)
def test_drafts_are_what_followed_the_longest_latest_match(
    tokens: list[int], expected: list[int]
) -> None:
    """Nothing where the end was never seen before."""
    assert drafts(tokens) == expected


def test_a_sequence_gets_no_more_drafts_than_it_can_use() -> None:
    """One token follows those that stand; a prompt that is being computed has no use for any."""
    proposer, tokens = NgramProposer(4), [1, 2, 3, 4, 1, 2]
    short, last, prefill = decoding(tokens, 3), decoding(tokens, 1), decoding(tokens)
    over = decoding(tokens)
    prefill.n_computed, over.phase = 2, Phase.FINISHED
    over.drafts = [1]

    proposer.propose([short, last, prefill, over])

    assert [text.drafts for text in (short, last, prefill, over)] == [[3, 4], [], [], []]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 3))
def test_an_index_that_grew_finds_what_a_new_one_finds(tokens: list[int], least: int) -> None:
    """Token by token or at once."""
    proposer = NgramProposer(3, least=least)
    text = decoding(tokens[:1])
    for token in tokens[1:]:
        proposer.propose([text])
        text.tokens.append(token)
        text.n_computed += 1
    proposer.propose([text])

    assert text.drafts == drafts(tokens, 3, least=least)
    proposer.forget(text)
    proposer.forget(text)


def test_sizes_of_ngrams_must_be_in_order() -> None:
    """The error says which numbers were given."""
    with pytest.raises(ValueError, match="3 to 2"):
        NgramProposer(4, least=3, most=2)
