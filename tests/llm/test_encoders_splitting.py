"""The cuts of a batch into calls, as a pure decision."""

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_runtime.llm.encoders.splitting import padded_tokens, split

LENGTHS = st.lists(st.integers(1, 300), max_size=40)


@given(LENGTHS, st.integers(1, 500), st.integers(1, 5000))
@settings(max_examples=60)
def test_each_text_is_in_one_call_and_no_call_is_too_large(
    lengths: list[int], call_tokens: int, most: int
) -> None:
    """Padding counts; a text that alone is longer goes alone."""
    calls = split(lengths, call_tokens, most)

    assert sorted(i for call in calls for i in call) == list(range(len(lengths)))
    for call in calls:
        assert len(call) == 1 or len(call) * max(lengths[i] for i in call) <= most


@given(st.lists(st.integers(1, 60), min_size=1, max_size=9), st.integers(1, 80))
@settings(max_examples=40)
def test_no_other_cuts_cost_less(lengths: list[int], call_tokens: int) -> None:
    """Held against every way to cut the texts in the order of their lengths."""
    calls = split(lengths, call_tokens, 10**6)
    ascending = sorted(range(len(lengths)), key=lambda i: lengths[i])

    def cost(cuts: list[list[int]]) -> int:
        return padded_tokens(lengths, cuts) + call_tokens * len(cuts)

    for bits in range(1 << (len(lengths) - 1)):
        other: list[list[int]] = [[]]
        for place, i in enumerate(ascending):
            if place and bits >> (place - 1) & 1:
                other.append([])
            other[-1].append(i)
        assert cost(calls) <= cost(other)


def test_texts_of_one_length_share_a_call_and_unlike_ones_do_not() -> None:
    """Unless a call costs more than the padding."""
    lengths = [4, 200, 4, 200, 4]

    assert split(lengths, 20, 10_000) == [[0, 2, 4], [1, 3]]
    assert split(lengths, 20_000, 10_000) == [[0, 2, 4, 1, 3]]
    assert split([], 20, 100) == []
