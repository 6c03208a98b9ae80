"""Text of tokens as they come: whole characters, all of them, up to a stop string."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.text_fixtures import (
    MULTIBYTE,
    byte_fallback,
    byte_level,
    gemma_like,
    metaspace,
    pieces,
    word_pieces,
)

from penstock_runtime.llm.detokenizer import TextStream
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.tokenizer import Tokenizer

ALL: list[Callable[[], Tokenizer]] = [
    byte_level,
    byte_fallback,
    gemma_like,
    metaspace,
    word_pieces,
]
EXACT = [byte_level, metaspace, word_pieces]
ids = st.lists(st.integers(0, 1100), max_size=30)


def _stream(
    tokenizer: Tokenizer, tokens: Sequence[int], params: SamplingParams, size: int = 1
) -> list[str]:
    stream = TextStream(tokenizer, params)
    groups = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    return [*(stream.push(group).text for group in groups), stream.flush().text]


@pytest.mark.parametrize("make", EXACT)
@given(ids, st.booleans(), st.integers(1, 5))
@settings(max_examples=60)
def test_all_deltas_together_are_the_text_of_all_tokens(
    make: Callable[[], Tokenizer], tokens: list[int], skip: bool, size: int
) -> None:
    tokenizer = make()

    deltas = _stream(tokenizer, tokens, SamplingParams(skip_special_tokens=skip), size)

    assert "".join(deltas) == tokenizer.decode(tokens, skip)


@pytest.mark.parametrize("make", [byte_fallback, gemma_like])
@given(ids, st.booleans())
@settings(max_examples=60)
def test_bytes_of_fallback_that_are_characters_are_kept_beside_those_that_are_none(
    make: Callable[[], Tokenizer], tokens: list[int], skip: bool
) -> None:
    tokenizer = make()

    text = "".join(_stream(tokenizer, tokens, SamplingParams(skip_special_tokens=skip)))

    whole = tokenizer.decode(tokens, skip)
    if "\ufffd" not in text:
        assert text == whole
    # The decoder gives up all bytes of a run with one that is wrong.
    assert text.count("\ufffd") <= whole.count("\ufffd")


@pytest.mark.parametrize("make", [byte_level, byte_fallback, gemma_like])
@given(
    st.text(max_size=12) | st.sampled_from([MULTIBYTE, "👩‍👩‍👧", "e\u0301", "日本語", "  a  b "])
)
@settings(max_examples=60)
def test_no_delta_has_half_a_character(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    tokens = tokenizer.encode(text, special=False)

    deltas = _stream(tokenizer, tokens, SamplingParams(skip_special_tokens=False))

    assert all(("\ufffd" in delta) <= ("\ufffd" in text) for delta in deltas)
    assert "".join(deltas) == tokenizer.decode(tokens, False)


def test_characters_of_several_tokens_come_with_their_last() -> None:
    tokenizer = byte_level()
    raw = pieces(tokenizer, "ðŁĻĤ")

    deltas = _stream(tokenizer, [*raw, raw[0]], SamplingParams())

    assert deltas == ["", "", "", "🙂", "", "\ufffd"]


def test_bytes_that_never_become_a_character_are_not_held_for_ever() -> None:
    tokenizer = byte_level()
    raw = pieces(tokenizer, "Ļ")

    deltas = _stream(tokenizer, raw * 5, SamplingParams())

    assert deltas[:5] == ["\ufffd"] * 5


@pytest.mark.parametrize("make", ALL)
def test_a_text_goes_on_from_its_prompt_with_the_space_between(
    make: Callable[[], Tokenizer],
) -> None:
    tokenizer = make()
    tokens = tokenizer.encode("the cat sat on a mat", special=False)
    prompt, answer = tokens[:-1], tokens[-1:]

    stream = TextStream(tokenizer, SamplingParams(), prompt)
    text = stream.push(answer).text + stream.flush().text

    assert tokenizer.decode(prompt) + text == tokenizer.decode(tokens)


def test_a_character_that_the_prompt_begins_is_whole_in_the_answer() -> None:
    tokenizer = byte_level()
    raw = pieces(tokenizer, "ðŁĻĤ")

    stream = TextStream(tokenizer, SamplingParams(), raw[:2])

    assert stream.push(raw[2:]).text == "🙂"


@given(st.text("abc é🙂", max_size=20), st.text("abc é🙂", min_size=1, max_size=3), st.booleans())
@settings(max_examples=60)
def test_a_stop_string_across_tokens_ends_the_text_and_no_delta_shows_its_beginning(
    text: str, stop: str, include: bool
) -> None:
    tokenizer = byte_level()
    params = SamplingParams(stop=(stop,), include_stop_str_in_output=include)
    tokens = tokenizer.encode(text, special=False)
    stream = TextStream(tokenizer, params)

    deltas = [stream.push([token]) for token in tokens]
    answer = "".join(delta.text for delta in deltas) + stream.flush().text

    before, found, _ = text.partition(stop)
    assert answer == before + (found if include else "")
    assert stream.finished == bool(found)


def test_the_tokens_after_a_stop_string_are_not_kept() -> None:
    tokenizer = byte_level()
    tokens = pieces(tokenizer, "xyzxyz")
    stream = TextStream(tokenizer, SamplingParams(stop=("zx",)))

    delta = stream.push(tokens)
    after = stream.push(tokens)

    assert (delta.text, delta.kept, delta.finished) == ("xy", 4, True)
    assert (delta.reason, delta.stop_reason) == ("stop", "zx")
    assert (after.text, after.kept, after.finished) == ("", 0, True)
    assert stream.flush().text == ""


def test_a_stop_string_ends_nothing_before_there_are_min_tokens() -> None:
    tokenizer = byte_level()
    tokens = pieces(tokenizer, "xyxyxy")
    params = SamplingParams(stop=("y",), min_tokens=3)
    stream = TextStream(tokenizer, params)

    delta = stream.push(tokens)

    assert (delta.text, delta.kept) == ("xyx", 4)
    assert TextStream(tokenizer, replace(params, min_tokens=0)).push(tokens).kept == 2


def test_special_tokens_show_only_where_they_are_asked_for() -> None:
    tokenizer = byte_level()
    tokens = [2, *tokenizer.encode("hi", special=False), 3]

    hidden = _stream(tokenizer, tokens, SamplingParams())
    shown = _stream(tokenizer, tokens, SamplingParams(skip_special_tokens=False))

    assert "".join(hidden) == "hi"
    assert "".join(shown) == "<|im_start|>hi<|im_end|>"
