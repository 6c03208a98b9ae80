"""Sampling parameters: which are read, which are refused, and by what words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.sampling_params import SamplingParams, Structured, StructuredKind
from penstock_runtime.llm.sampling_reader import MAX_N, MAX_STOPS, NAMES, read_sampling

NAN, INF = float("nan"), float("inf")
GOOD: list[tuple[str, Any, str, Any]] = [
    ("n", 1, "n", 1),
    ("n", MAX_N, "n", MAX_N),
    ("temperature", 0, "temperature", 0.0),
    ("temperature", 0.001, "temperature", 0.01),
    ("temperature", 5, "temperature", 5.0),
    ("top_p", 1, "top_p", 1.0),
    ("top_p", 1e-9, "top_p", 1e-9),
    ("top_k", -1, "top_k", 0),
    ("top_k", 0, "top_k", 0),
    ("top_k", 50, "top_k", 50),
    ("min_p", 0, "min_p", 0.0),
    ("min_p", 1, "min_p", 1.0),
    ("typical_p", 0.5, "typical_p", 0.5),
    ("presence_penalty", -2, "presence_penalty", -2.0),
    ("frequency_penalty", 2, "frequency_penalty", 2.0),
    ("repetition_penalty", 1.3, "repetition_penalty", 1.3),
    ("seed", -(1 << 63), "seed", -(1 << 63)),
    ("seed", (1 << 63) - 1, "seed", (1 << 63) - 1),
    ("seed", -1, "seed", None),
    ("stop", "x", "stop", ("x",)),
    ("stop", ["x", "yz"], "stop", ("x", "yz")),
    ("stop_words", ["x"], "stop", ("x",)),
    ("stop_token_ids", [5, 99, 5], "stop_token_ids", (5, 99)),
    ("max_tokens", 1, "max_tokens", 1),
    ("max_tokens", None, "max_tokens", None),
    ("max_new_tokens", 7, "max_tokens", 7),
    ("max_completion_tokens", 7, "max_tokens", 7),
    ("min_tokens", 16, "min_tokens", 16),
    ("logprobs", 0, "logprobs", 0),
    ("logprobs", 20, "logprobs", 20),
    ("logprobs", True, "logprobs", 0),
    ("logprobs", False, "logprobs", None),
    ("top_logprobs", 3, "logprobs", 3),
    ("top_n_tokens", 3, "logprobs", 3),
    ("top_n_tokens", 0, "logprobs", None),
    ("prompt_logprobs", 2, "prompt_logprobs", 2),
    ("decoder_input_details", True, "prompt_logprobs", 0),
    ("logit_bias", {"5": 1, 6: -3.5}, "logit_bias", {5: 1.0, 6: -3.5}),
    ("logit_bias", {"5": 1000}, "logit_bias", {5: 100.0}),
    ("allowed_token_ids", [1, 2], "allowed_token_ids", (1, 2)),
    ("bad_words", ["x y"], "bad_words", ("x y",)),
    ("truncate_prompt_tokens", -1, "truncate_prompt_tokens", -1),
    ("truncate_prompt_tokens", 0, "truncate_prompt_tokens", None),
    ("stream_interval", 4, "stream_interval", 4),
    ("ignore_eos", True, "ignore_eos", True),
    ("adapter_id", "law", "adapter", "law"),
    ("do_sample", False, "temperature", 0.0),
    ("do_sample", True, "temperature", 1.0),
    ("best_of", 1, "n", 1),
    ("beam_width", 1, "n", 1),
    ("priority", 0, "n", 1),
    ("watermark", False, "n", 1),
    ("temperature", None, "temperature", 1.0),
]
_BIASES: list[Any] = [{"100": 1}, {"x": 1}, {"-1": 1}, {1: "a"}, {1: NAN}, []]
BAD: list[tuple[str, Any]] = [
    *(("n", value) for value in (0, -1, MAX_N + 1, 1.0, True, "2", [2])),
    *(("temperature", value) for value in (-0.1, NAN, INF, "1", True, 10**400, [1])),
    *(("top_p", value) for value in (0, -1, 1.01, NAN, True)),
    *(("top_k", value) for value in (-2, 1.5, 1 << 31, True)),
    *(("min_p", value) for value in (-0.1, 1.1, NAN)),
    *(("typical_p", value) for value in (0, 1.1)),
    *(("presence_penalty", value) for value in (-2.1, 2.1, INF)),
    *(("frequency_penalty", value) for value in (-2.1, 2.1, "0")),
    *(("repetition_penalty", value) for value in (0, -1, INF, NAN)),
    *(("seed", value) for value in (1 << 63, -(1 << 63) - 1, 0.5, True)),
    *(
        ("stop", value)
        for value in ("", [""], 5, ["a"] * (MAX_STOPS + 1), "x" * 1025, [1], {"a": 1})
    ),
    *(("stop_token_ids", value) for value in ([-1], [100], ["5"], 5, [True], list(range(2000)))),
    *(("max_tokens", value) for value in (0, -1, 1 << 31, "all", 1.0, True)),
    *(("min_tokens", value) for value in (-1, 17, 1 << 31)),
    *(("logprobs", value) for value in (-1, 21, 1.0, "1")),
    *(("top_logprobs", value) for value in (-1, 21, True)),
    *(("prompt_logprobs", value) for value in (-1, 21)),
    *(("logit_bias", value) for value in _BIASES),
    ("logit_bias", dict.fromkeys(range(1025), 1)),
    *(("allowed_token_ids", value) for value in ([], [100], "1")),
    *(("bad_words", value) for value in ([""], 3)),
    *(("truncate_prompt_tokens", value) for value in (-2, 1.5)),
    *(("stream_interval", value) for value in (0, -1)),
    *(("ignore_eos", value) for value in (1, "true", 0)),
    *(("skip_special_tokens", value) for value in (1, "no")),
    *(("do_sample", value) for value in (1, "no")),
    *(("best_of", value) for value in (2, 0, True)),
    *(("details", value) for value in (1, "yes")),
    *(("priority", value) for value in (1, False)),
    ("cache_salt", "x"),
    ("watermark", True),
    ("use_beam_search", True),
    ("beam_width", 4),
    ("thinking_token_budget", 10),
    ("adapter_id", ""),
]


@pytest.mark.parametrize(("name", "value", "field", "expected"), GOOD)
def test_a_value_in_range_is_read_in_the_engines_one_form(
    name: str, value: Any, field: str, expected: Any
) -> None:
    params = read_sampling({name: value}, vocab_size=100)

    assert getattr(params, field) == expected


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_out_of_range_or_of_another_type_is_refused_by_its_name(
    name: str, value: Any
) -> None:
    with pytest.raises(InvalidArgument, match=f"^sampling parameter '{name}") as refused:
        read_sampling({name: value}, vocab_size=100)

    assert len(refused.value.message) < 300
    assert refused.value.violations


def test_a_prompt_alone_may_be_asked_about() -> None:
    params = read_sampling({"max_tokens": 0, "prompt_logprobs": 1})

    assert (params.max_tokens, params.prompt_logprobs) == (0, 1)


def test_a_refusal_says_the_value_and_what_was_expected() -> None:
    with pytest.raises(InvalidArgument) as refused:
        read_sampling({"top_p": 2})

    assert refused.value.message == (
        "sampling parameter 'top_p' is 2, expected a number over 0 to 1"
    )


def test_an_unknown_name_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(
        InvalidArgument, match="'temprature' is unknown; did you mean 'temperature'"
    ):
        read_sampling({"temprature": 1})
    with pytest.raises(InvalidArgument, match=r"unknown$"):
        read_sampling({"zzzz\n" * 1000: 1})


def test_what_is_not_given_is_as_the_base_has_it() -> None:
    base = SamplingParams(temperature=0.3, stop=("a",), max_tokens=None)

    params = read_sampling({"top_k": 3, "stop": None}, base)

    assert params == SamplingParams(temperature=0.3, stop=("a",), max_tokens=None, top_k=3)


def test_two_names_of_one_thing_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"max_new_tokens.*'max_tokens' say the same"):
        read_sampling({"max_tokens": 3, "max_new_tokens": 3})


def test_who_does_not_sample_is_greedy_unless_it_says_how_to() -> None:
    assert read_sampling({"do_sample": False}).greedy
    assert not read_sampling({"do_sample": False, "top_k": 4}).greedy


FORMS: list[tuple[dict[str, Any], StructuredKind, str]] = [
    ({"json": {"type": "object"}}, StructuredKind.JSON, '{"type": "object"}'),
    ({"json": '{"type":"object"}'}, StructuredKind.JSON, '{"type":"object"}'),
    ({"guided_json": {}}, StructuredKind.JSON, "{}"),
    ({"json_object": True}, StructuredKind.JSON_OBJECT, ""),
    ({"regex": "a+"}, StructuredKind.REGEX, "a+"),
    ({"guided_regex": "a+"}, StructuredKind.REGEX, "a+"),
    ({"choice": ["é", "b"]}, StructuredKind.CHOICE, '["é", "b"]'),
    ({"guided_choice": ["a"]}, StructuredKind.CHOICE, '["a"]'),
    ({"grammar": 'root ::= "a"'}, StructuredKind.GRAMMAR, 'root ::= "a"'),
    ({"grammar": {"type": "regex", "value": "a"}}, StructuredKind.REGEX, "a"),
    ({"grammar": {"type": "json", "value": {}}}, StructuredKind.JSON, "{}"),
    (
        {"grammar": {"type": "json_schema", "value": {"schema": {}}}},
        StructuredKind.JSON,
        "{}",
    ),
    ({"structured_outputs": {"regex": "a", "json": None}}, StructuredKind.REGEX, "a"),
    ({"response_format": {"type": "json_object"}}, StructuredKind.JSON_OBJECT, ""),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
        StructuredKind.JSON,
        "{}",
    ),
    (
        {"guided_decoding_guide_type": "ebnf_grammar", "guided_decoding_guide": "x"},
        StructuredKind.GRAMMAR,
        "x",
    ),
    ({"guided_decoding_guide_type": "json"}, StructuredKind.JSON_OBJECT, ""),
]


@pytest.mark.parametrize(("document", "kind", "text"), FORMS)
def test_each_systems_way_to_ask_for_a_form_is_read_as_the_same(
    document: dict[str, Any], kind: StructuredKind, text: str
) -> None:
    assert read_sampling(document).structured == Structured(kind, text)


@pytest.mark.parametrize(
    "document", [{"json_object": False}, {"response_format": {"type": "text"}}, {"json": None}]
)
def test_no_form_is_asked_for_by_saying_none(document: dict[str, Any]) -> None:
    assert read_sampling(document).structured is None


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"json": {}, "regex": "a"}, "one form of the answer too many"),
        ({"json": "{"}, "is no JSON"),
        ({"json": "[1]"}, "expected a JSON schema"),
        ({"json": '{"a": NaN}'}, "has NaN"),
        ({"json": '{"not":' * 65 + "{}" + "}" * 65}, "nests deeper than 64"),
        ({"json": "[" * 200_000}, "nests deeper than 64"),
        ({"json": '"' + '\\"' * 130_000}, "is no JSON"),
        ({"json": {"enum": ["x" * 300_000]}}, "expected at most 262144"),
        ({"regex": ""}, "expected a regular expression"),
        ({"regex": ["a"]}, "expected a regular expression"),
        ({"choice": []}, "at least one string"),
        ({"choice": "ab"}, "a list of strings"),
        ({"choice": ["a"] * 2000}, "expected at most 1024"),
        ({"choice": [1]}, r"choice\[0\]"),
        ({"json_object": 1}, "true or false"),
        ({"grammar": {"type": "xml", "value": ""}}, "json, regex or json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "json_schema.schema' is missing"),
        ({"response_format": "json"}, "an object with a type"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn' is unknown"),
        ({"structured_outputs": {}}, "expected one of"),
        ({"structural_tag": "[]"}, "an object with structures"),
        ({"guided_decoding_guide_type": "x"}, "ebnf_grammar"),
        ({"guided_decoding_guide_type": "regex"}, "regular expression"),
    ],
)
def test_a_form_that_is_none_is_refused(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        read_sampling(document)

    assert len(refused.value.message) < 300


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), _json, max_size=4))
def test_nothing_that_is_json_is_answered_by_another_error(document: dict[str, Any]) -> None:
    try:
        params = read_sampling(document, vocab_size=1000)
    except InvalidArgument:
        return

    assert isinstance(params, SamplingParams)
