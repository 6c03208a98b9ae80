"""Structured answers: whatever a model would say, they have the form that was asked for."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tests.llm.json_schemas import random_schema, valid
from tests.llm.text_fixtures import byte_level, gemma_like, word_pieces

from penstock_runtime.errors import InvalidArgument, Unavailable, Unsupported
from penstock_runtime.llm.grammar_matcher import Matcher
from penstock_runtime.llm.sampling_params import Structured, StructuredKind
from penstock_runtime.llm.sequence import Grammar
from penstock_runtime.llm.structured import Grammars
from penstock_runtime.llm.tokenizer import Tokenizer

# A model's logits are often more than there are tokens.
VOCAB = 1056
WORDS = VOCAB // 32
EOS = 1


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    made = Grammars(byte_level(), VOCAB)
    yield made
    made.close()


def _grammar(grammars: Grammars, kind: StructuredKind, text: str) -> Matcher:
    grammar = grammars.compile(Structured(kind, text)).result(60)
    assert isinstance(grammar, Matcher)
    return grammar


def _allowed(grammar: Grammar) -> np.ndarray[Any, Any]:
    mask = np.full((2, WORDS), -1, np.int32)
    grammar.fill(mask, 1)
    assert (mask[0] == -1).all()
    return np.unpackbits(mask[1].view(np.uint8), bitorder="little").astype(bool)


def _generate(grammar: Grammar, generator: np.random.Generator, most: int = 2000) -> list[int]:
    """Sample at temperature 1.5 from random logits."""
    tokens: list[int] = []
    while len(tokens) < most:
        logits = generator.normal(size=VOCAB) * 3 / 1.5
        logits[~_allowed(grammar)] = -np.inf
        token = int((logits + generator.gumbel(size=VOCAB)).argmax())
        assert grammar.accept(token)
        if token == EOS or token == 3:
            return tokens
        tokens.append(token)
    raise AssertionError(f"no end after {most} tokens: {byte_level().decode(tokens)!r}")


def _accepts(grammar: Grammar, text: str, tokenizer: Tokenizer | None = None) -> bool:
    tokens = (tokenizer or byte_level()).encode(text, special=False)
    return all(grammar.accept(token) for token in tokens)


def test_two_hundred_random_schemas_give_documents_that_are_theirs(grammars: Grammars) -> None:
    random, generator = Random(6), np.random.default_rng(6)
    schemas = [random_schema(random) for _ in range(200)]
    futures = [
        grammars.compile(Structured(StructuredKind.JSON, json.dumps(one))) for one in schemas[:60]
    ]
    wait(futures)

    for place, schema in enumerate(schemas):
        grammar = _grammar(grammars, StructuredKind.JSON, json.dumps(schema))
        text = byte_level().decode(_generate(grammar, generator))

        assert valid(json.loads(text), schema), (place, schema, text)


def test_any_object_is_an_object(grammars: Grammars) -> None:
    grammar = _grammar(grammars, StructuredKind.JSON_OBJECT, "")

    assert not grammar.accept(byte_level().encode("[")[0])
    assert _accepts(grammar, '{"a": {"é🙂": [1, null, "x"]}}')
    assert grammar.finished


def test_white_space_in_json_has_an_end(grammars: Grammars) -> None:
    grammar = _grammar(grammars, StructuredKind.JSON_OBJECT, "")

    assert _accepts(grammar, "{")
    accepted = [grammar.accept(byte_level().encode("\n")[0]) for _ in range(100)]

    assert 0 < sum(accepted) < 20


@pytest.mark.parametrize(
    "pattern", [r"[a-c]{3}-\d+(é|日本|🙂)", r"(ab|a)(bc)?", r"[a-z]{2,5}@x\.org"]
)
def test_an_answer_matches_its_pattern(grammars: Grammars, pattern: str) -> None:
    generator = np.random.default_rng(1)

    for _ in range(5):
        grammar = _grammar(grammars, StructuredKind.REGEX, pattern)
        text = byte_level().decode(_generate(grammar, generator))

        assert re.fullmatch(pattern, text)


def test_an_answer_is_one_of_its_choices(grammars: Grammars) -> None:
    choices = ["yes", "yes, but", "né", "👩‍👩‍👧 family", 'a "quote" \\ and\nline', "e\u0301"]
    generator = np.random.default_rng(2)

    found = {
        byte_level().decode(
            _generate(_grammar(grammars, StructuredKind.CHOICE, json.dumps(choices)), generator)
        )
        for _ in range(60)
    }

    assert found == set(choices)


@pytest.mark.parametrize(
    "text",
    [
        'start: "<" word ("," word)* ">"\nword: /[a-z]{1,3}/ | "日本"',
        'root ::= "<" word ("," word)* ">"\nword ::= [a-z] [a-z]? [a-z]? | "日本"',
    ],
)
def test_an_answer_follows_a_grammar_in_lark_or_ebnf(grammars: Grammars, text: str) -> None:
    generator = np.random.default_rng(3)
    pattern = r"<([a-z]{1,3}|日本)(,([a-z]{1,3}|日本))*>"

    for _ in range(5):
        grammar = _grammar(grammars, StructuredKind.GRAMMAR, text)

        assert re.fullmatch(pattern, byte_level().decode(_generate(grammar, generator)))


def test_a_structural_tag_constrains_what_is_in_it_and_no_other_text(grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": "<fn=look>", "schema": schema, "end": "</fn>"}],
        "triggers": ["<fn="],
    }
    text = json.dumps(tag)

    assert _accepts(
        _grammar(grammars, StructuredKind.STRUCTURAL_TAG, text),
        'I will. <fn=look>{"n": 12}</fn> Done {',
    )
    assert not _accepts(
        _grammar(grammars, StructuredKind.STRUCTURAL_TAG, text), "I will. <fn=look>[1]"
    )


BAD = [
    (StructuredKind.JSON, '{"type": "objec"}', "Invalid type"),
    (StructuredKind.JSON, '{"$ref": "#/$defs/x"}', "does not exist"),
    (StructuredKind.JSON, '{"$ref": "https://example.invalid/x"}', "json: "),
    (StructuredKind.JSON, '{"$ref": "#"}', "nothing follows it"),
    (StructuredKind.JSON, '{"type": "string", "not": {}}', "Unimplemented"),
    (StructuredKind.REGEX, "(a", "unclosed group"),
    (StructuredKind.REGEX, "(?=a)b", "look-around"),
    (StructuredKind.REGEX, r"(a)\1", "backreferences"),
    (StructuredKind.REGEX, "((a{999}){999}){999}|((b{999}){999}){999}c", ""),
    (StructuredKind.GRAMMAR, "start: foo", "unknown name"),
    (StructuredKind.GRAMMAR, "%%%", "grammar: "),
    (StructuredKind.GRAMMAR, 'root ::= ("a"', "no Lark and no EBNF"),
    (StructuredKind.GRAMMAR, "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "recursion"),
    (StructuredKind.GRAMMAR, 'root ::= "a"\n' * 2000, "expected at most 16384"),
    (StructuredKind.GRAMMAR, "start: a\n" + "a: /a/\n" * 20_000, "expected at most 65536"),
    (StructuredKind.STRUCTURAL_TAG, "{}", "expected structures and triggers"),
    (StructuredKind.STRUCTURAL_TAG, '{"format": {}}', "a format is not supported"),
    (
        StructuredKind.STRUCTURAL_TAG,
        '{"structures": [{"begin": "<a>", "end": ""}], "triggers": ["<b"]}',
        "no trigger begins '<a>'",
    ),
    (
        StructuredKind.STRUCTURAL_TAG,
        '{"structures": [{"begin": "<a>"}], "triggers": ["<a"]}',
        "needs begin, schema and end",
    ),
]


@pytest.mark.parametrize(("kind", "text", "problem"), [one for one in BAD if one[2]])
def test_a_form_that_is_no_good_fails_alone_and_says_why_in_a_line(
    grammars: Grammars, kind: StructuredKind, text: str, problem: str
) -> None:
    bad = grammars.compile(Structured(kind, text))
    good = grammars.compile(Structured(StructuredKind.REGEX, "ok"))

    with pytest.raises(InvalidArgument, match=problem) as refused:
        bad.result(60)

    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 320
    assert _accepts(good.result(60), "ok")


HOSTILE = [
    (StructuredKind.REGEX, "((a{0,100}){0,100}){0,100}"),
    (StructuredKind.REGEX, "(.*a){200}(.*b){200}"),
    (StructuredKind.REGEX, "(?:" + "|".join(f"x{i}y.*z{i}" for i in range(5000)) + ")"),
    (StructuredKind.REGEX, r"(a|aa)+\d(x+x+)+y"),
    (StructuredKind.JSON, json.dumps({"enum": [f"v{i}" for i in range(20_000)]})),
    (
        StructuredKind.JSON,
        json.dumps({"type": "string", "pattern": "^(([a-z]{1,99}){1,99}){1,99}$"}),
    ),
    (StructuredKind.JSON, json.dumps({"type": "array", "minItems": 10**9, "items": {}})),
    (
        StructuredKind.JSON,
        json.dumps({"anyOf": [{"type": "object", "required": [f"a{i}"]} for i in range(300)]}),
    ),
    (StructuredKind.GRAMMAR, 'start: a a a a a a a a\na: | a a | "x"'),
]


@pytest.mark.parametrize(("kind", "text"), HOSTILE)
def test_a_form_that_is_made_to_take_long_takes_bounded_time(
    grammars: Grammars, kind: StructuredKind, text: str
) -> None:
    generator = np.random.default_rng(4)
    begun = time.process_time()

    try:
        grammar = grammars.compile(Structured(kind, text)).result(60)
    except InvalidArgument:
        pass
    else:
        for _ in range(30):
            tokens = np.flatnonzero(_allowed(grammar))
            grammar.accept(int(generator.choice(tokens)))

    assert time.process_time() - begun < 10


def test_what_may_not_come_changes_nothing(grammars: Grammars) -> None:
    grammar = _grammar(grammars, StructuredKind.REGEX, "abc+")
    before = _allowed(grammar)

    assert not grammar.accept(byte_level().encode("x")[0])
    assert not grammar.accept(EOS)
    assert not grammar.accept(VOCAB - 1)

    assert (_allowed(grammar) == before).all()
    assert _accepts(grammar, "abc")


def test_tokens_are_taken_back_one_by_one_and_the_end_with_them(grammars: Grammars) -> None:
    one = byte_level().encode
    for pattern in ("ab", "ab*"):
        grammar = _grammar(grammars, StructuredKind.REGEX, pattern)
        before = _allowed(grammar)

        assert grammar.accept(one("a")[0])
        after = _allowed(grammar)
        assert grammar.accept(one("b")[0])
        assert grammar.accept(EOS)
        ended = grammar.finished
        assert grammar.accept(3)
        assert list(np.flatnonzero(_allowed(grammar))) == [1, 3]

        grammar.rollback(3)
        assert (_allowed(grammar) == after).all()
        assert (ended, grammar.finished) == (True, False)
        grammar.rollback(1)
        assert (_allowed(grammar) == before).all()
        with pytest.raises(ValueError, match="1 tokens cannot be taken back of 0"):
            grammar.rollback(1)


def test_a_mask_may_be_a_tensor_and_of_another_size(grammars: Grammars) -> None:
    grammar = _grammar(grammars, StructuredKind.REGEX, "[ab]")
    expected = np.flatnonzero(_allowed(grammar))

    for words in (WORDS - 2, WORDS, WORDS + 3):
        mask = torch.full((2, words), -1, dtype=torch.int32)
        grammar.fill(mask, 0)

        bits = np.unpackbits(mask.numpy()[0].view(np.uint8), bitorder="little")
        assert list(np.flatnonzero(bits)) == list(expected)
        assert (mask[1] == -1).all()


def test_one_grammar_serves_many_requests_that_do_not_see_each_other(grammars: Grammars) -> None:
    form = Structured(StructuredKind.REGEX, "a(b|c)d")
    before = grammars.stats()

    first, second = grammars.compile(form).result(60), grammars.compile(form).result(60)

    assert _accepts(first, "abd")
    assert _accepts(second, "acd")
    assert grammars.stats().misses == before.misses + 1
    assert grammars.stats().hits == before.hits + 1


def test_the_grammars_that_are_kept_are_bounded_in_number_and_size() -> None:
    grammars = Grammars(byte_level(), VOCAB, max_entries=3, max_bytes=100)
    for place in range(6):
        grammars.compile(Structured(StructuredKind.REGEX, f"x{place}")).result(60)
    by_number = grammars.stats()
    grammars.compile(Structured(StructuredKind.REGEX, "y" * 99)).result(60)
    by_size = grammars.stats()
    grammars.close()

    assert (by_number.entries, by_number.size, by_number.misses) == (3, 6, 6)
    assert (by_size.entries, by_size.size) == (1, 99)


def test_more_grammars_than_may_be_compiled_at_once_are_refused_for_now() -> None:
    grammars = Grammars(byte_level(), VOCAB, max_pending=0)

    with pytest.raises(Unavailable, match="0 grammars are being compiled"):
        grammars.compile(Structured(StructuredKind.REGEX, "a")).result(60)

    grammars.close()


def test_a_request_that_went_away_does_not_disturb_who_waits_for_the_same() -> None:
    grammars = Grammars(byte_level(), VOCAB)
    form = Structured(StructuredKind.JSON, json.dumps({"enum": [f"v{i}" for i in range(5000)]}))
    futures: list[Future[Grammar]] = [grammars.compile(form) for _ in range(3)]
    futures[0].cancel()

    assert _accepts(futures[2].result(60), '"v42"')
    grammars.close()
    with pytest.raises(Unavailable, match="unloaded"):
        grammars.compile(form)


def test_a_vocabulary_with_bytes_of_fallback_has_structured_answers_too() -> None:
    grammars = Grammars(gemma_like(), gemma_like().vocab_size)

    grammar = _grammar(grammars, StructuredKind.JSON, '{"enum": ["é🙂 日"]}')

    assert _accepts(grammar, '"é🙂 日"', gemma_like())
    assert grammar.finished
    grammars.close()


def test_a_vocabulary_without_bytes_has_none_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    grammars = Grammars(word_pieces(), word_pieces().vocab_size)

    with pytest.raises(Unsupported, match="structured answers are not offered"):
        grammars.compile(Structured(StructuredKind.REGEX, "a")).result(60)

    assert "structured answers are not offered" in caplog.text
    grammars.close()
