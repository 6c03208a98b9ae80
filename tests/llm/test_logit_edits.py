"""Penalties, biases, masks and bad words do to the logits what a slow reference does."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.sampling_fakes import (
    RuleGrammar,
    TableModel,
    exact,
    generate,
    row_of,
    sample_one,
    sequence,
)

from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.step import StepPlan

Array = npt.NDArray[Any]
VOCAB = 12
EOS = 0
TOKENS = st.integers(0, VOCAB - 1)


def letters(text: str) -> list[int]:
    """A token for each letter, "a" is 1; one after a space is a token of its own."""
    if text.startswith(" "):
        return [ord(text[1]) - ord("a") + 6, *letters(text[2:])]
    return [ord(letter) - ord("a") + 1 for letter in text]


def reference(logits: Array, text: Sequence, drafts: list[int]) -> Array:
    """vLLM's definitions, token by token."""
    params, x = text.params, logits.astype(np.float32).copy()
    generated = text.tokens[text.n_prompt :] + drafts
    for token in range(VOCAB):
        allowed = params.allowed_token_ids
        if allowed is not None and token not in allowed:
            x[token] = -np.inf
        x[token] += params.logit_bias.get(token, 0)
        if len(generated) < params.min_tokens and token in (EOS, *params.stop_token_ids):
            x[token] = -np.inf
        for word in params.bad_words:
            *before, last = letters(word)
            if last == token and generated[len(generated) - len(before) :] == before:
                x[token] = -np.inf
        if token in text.tokens or token in drafts:
            factor = params.repetition_penalty
            x[token] = x[token] / factor if x[token] > 0 else x[token] * factor
        x[token] -= params.frequency_penalty * generated.count(token)
        x[token] -= params.presence_penalty * (token in generated)
    return x


@settings(max_examples=80, deadline=None)
@given(
    params=st.builds(
        SamplingParams,
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
        presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
        frequency_penalty=st.sampled_from([0.0, 0.25]),
        logit_bias=st.dictionaries(TOKENS, st.sampled_from([-3.0, 2.0, 100.0]), max_size=3),
        allowed_token_ids=st.none() | st.just((1, 3, 5, 7, 9, 9, 11)),
        bad_words=st.sampled_from([(), ("aa",), ("bc", "abc", "d")]),
        min_tokens=st.integers(0, 5),
        stop_token_ids=st.sampled_from([(), (4, 999)]),
        ignore_eos=st.booleans(),
    ),
    prompt=st.lists(TOKENS, min_size=1, max_size=6),
    generated=st.lists(st.integers(1, 3), max_size=4),
    drafts=st.lists(st.integers(1, 3), max_size=3),
)
def test_logits_are_edited_as_the_reference_does(
    params: SamplingParams, prompt: list[int], generated: list[int], drafts: list[int]
) -> None:
    """At each position as if the drafts before it were there, and no draft is there afterwards."""
    logits = np.random.default_rng(len(prompt)).normal(0, 2, (len(drafts) + 1, VOCAB))
    sampler = Sampler(VOCAB, [EOS], tokenise=lambda word: letters(word.strip()))
    text = sequence(params, prompt)
    text.tokens += generated
    text.drafts = drafts

    for _ in range(2):
        (found,) = distributions(sampler, text, logits)
        for j, row in enumerate(logits):
            wanted = exact(reference(row, text, drafts[:j]), SamplingParams())
            np.testing.assert_allclose(found[j], wanted, atol=2e-6)


def distributions(sampler: Sampler, text: Sequence, logits: Array) -> list[Array]:
    plan = StepPlan((row_of(text),))
    logits = logits.astype(np.float32)
    return [p.numpy() for p in sampler.distributions(plan, torch.from_numpy(logits))]


def test_a_bad_word_counts_after_a_space_too() -> None:
    """Where that is another token; a prompt that ends like it does not count."""
    params = SamplingParams(temperature=0, bad_words=("ab",))
    sampler = Sampler(VOCAB, tokenise=letters)
    likes_b = np.eye(VOCAB)[[2]]
    text = sequence(params, [1])

    assert sample_one(sampler, text, likes_b).tokens == [2]
    for before in (1, 6):
        text.tokens = [1, before]
        assert sample_one(sampler, text, likes_b).tokens == [0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(logit_bias={12: 1.0}), "logit_bias: token 12, expected 0 to 11"),
        (SamplingParams(allowed_token_ids=(-1,)), "allowed_token_ids: token -1"),
        (SamplingParams(bad_words=("z",)), "bad_words: token 26"),
        (SamplingParams(allowed_token_ids=()), "leaves no token for position 3"),
        (SamplingParams(bad_words=("a",), allowed_token_ids=(1,)), "leaves no token"),
    ],
)
def test_what_cannot_be_drawn_fails_alone(params: SamplingParams, message: str) -> None:
    """The error names the field or the position; the neighbours get their tokens."""
    sampler = Sampler(VOCAB, tokenise=letters)
    texts = [sequence(replace(params, temperature=t)) for t in (0, 1)]
    texts.insert(1, sequence(SamplingParams(temperature=0)))
    plan = StepPlan(tuple(map(row_of, texts)))

    bad, good, other = sampler.sample(plan, torch.eye(3, VOCAB))

    assert good.tokens == [1]
    for result in (bad, other):
        assert isinstance(result.error, InvalidArgument)
        assert message in result.error.message
        assert not result.tokens


def test_bad_words_need_a_tokenizer() -> None:
    """Whoever asks for them elsewhere is told, at once if the engine asks."""
    with pytest.raises(InvalidArgument, match="no tokenizer"):
        Sampler(VOCAB).check(sequence(SamplingParams(bad_words=("a",))))


def rises(told: list[int], token: int) -> bool:
    """Each token is greater than the last, then comes the end."""
    last = told[-1] if told else EOS
    return token > last or (token == EOS and last == VOCAB - 1)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_grammar_is_followed_and_told_what_was_chosen(temperature: float) -> None:
    """Token by token to its end, even before min_tokens."""
    params = SamplingParams(temperature=temperature, min_tokens=50)
    text = sequence(params, max_tokens=VOCAB)
    grammar = text.grammar = RuleGrammar(VOCAB, rises)
    sampler, model = Sampler(VOCAB, [EOS]), TableModel(VOCAB)

    while text.tokens[-1] != EOS or text.n_generated == 0:
        text.max_tokens = text.n_generated + 1
        generate(sampler, model, [text])

    answer = text.tokens[text.n_prompt :]
    assert answer == [*sorted(set(answer[:-1])), EOS]
    assert answer[-2] == VOCAB - 1
    assert grammar.told == answer[:-1]


def test_a_grammar_masks_each_draft_and_takes_back_what_does_not_stand() -> None:
    """Nothing is drawn behind a draft that may not come."""
    params = SamplingParams(temperature=0)
    sampler = Sampler(VOCAB, [EOS])
    text = sequence(params)
    grammar = text.grammar = RuleGrammar(VOCAB, rises)
    text.drafts = [3, 5, 4, 6]

    result = sample_one(sampler, text, np.eye(VOCAB)[[3, 5, 4, 6, 7]])

    # 4 is the model's choice behind 5, but may not come there: the least that may is next.
    assert result.tokens == [3, 5, 6]
    assert grammar.told == [3, 5, 6]
    text.drafts = []
    text.tokens.append(3)  # the engine kept one token only
    assert sample_one(sampler, text, np.eye(VOCAB)[[4]]).tokens == [4]
    assert grammar.told == [3, 4]


def test_a_grammar_that_breaks_fails_its_own_row() -> None:
    """It works on what a caller wrote."""

    def broken(told: list[int], token: int) -> bool:
        raise RuntimeError("too complex")

    bad, good = sequence(SamplingParams()), sequence(SamplingParams(temperature=0))
    bad.grammar = RuleGrammar(VOCAB, broken)
    plan = StepPlan((row_of(bad), row_of(good)))

    results = Sampler(VOCAB).sample(plan, torch.eye(2, VOCAB))

    assert isinstance(results[0].error, Internal)
    assert "too complex" in results[0].error.message
    assert results[1].tokens == [1]
