"""Conversations with a real model, as OpenAI's client has them."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from tests.faces.serving_languages import ANSWER, CHAT

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Bern", "Rome"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object"}}},
]


def chat(client: OpenAI, **asked: Any) -> Any:
    """The answer to a conversation, greedy if nothing is said."""
    given: dict[str, Any] = {"model": "tiny", "messages": CHAT, "temperature": 0, **asked}
    return client.chat.completions.create(**given)


def deltas(chunks: Any) -> list[Any]:
    """The first choices of a stream's chunks."""
    return [chunk.choices[0] for chunk in chunks if chunk.choices]


def content(chunks: Any) -> str:
    """All that was said in a stream."""
    return "".join(each.delta.content or "" for each in deltas(chunks))


def test_a_conversation_goes_through_the_models_template(client: OpenAI) -> None:
    """Whole and in pieces; the model knows the answer only in the form that it learned."""
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))

    assert whole.choices[0].message.content == content(chunks) == ANSWER
    assert whole.choices[0].finish_reason == deltas(chunks)[-1].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 16
    assert [each.delta.role for each in deltas(chunks)][:2] == ["assistant", None]


def test_an_answer_ends_before_a_stop_string_and_at_a_bound(client: OpenAI) -> None:
    """Each with its reason."""
    stopped = chat(client, stop="number").choices[0]
    pieces = list(chat(client, stop="number", stream=True))
    bounded = chat(client, max_completion_tokens=2).choices[0]

    assert stopped.message.content == content(pieces) == ANSWER[: ANSWER.index("number")]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", "number")
    assert bounded.finish_reason == "length"
    assert ANSWER.startswith(bounded.message.content)


def test_probabilities_are_those_of_the_tokens_of_the_answer(client: OpenAI) -> None:
    """The likeliest first; streamed the same."""
    whole = chat(client, logprobs=True, top_logprobs=2, max_tokens=6).choices[0]
    pieces = deltas(chat(client, logprobs=True, top_logprobs=2, max_tokens=6, stream=True))

    said = whole.logprobs.content
    streamed = [token for each in pieces if each.logprobs for token in each.logprobs.content]
    assert "".join(token.token for token in said) == whole.message.content
    assert [token.token for token in streamed] == [token.token for token in said]
    for token in said:
        assert bytes(token.bytes).decode() == token.token
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 2


def test_an_answer_has_the_form_of_its_schema_at_any_temperature(client: OpenAI) -> None:
    """Streamed too."""
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    asked: dict[str, Any] = {"response_format": form, "temperature": 1.3, "seed": 3}

    whole = json.loads(chat(client, **asked).choices[0].message.content)
    pieces = json.loads(content(chat(client, stream=True, **asked)))
    free = json.loads(
        chat(client, response_format={"type": "json_object"}, seed=1, temperature=1)
        .choices[0].message.content
    )  # fmt: skip

    assert whole == pieces
    assert set(whole) == {"city", "days"}
    assert whole["city"] in ("Bern", "Rome")
    assert isinstance(free, dict)


def test_a_tool_that_is_named_is_called(client: OpenAI) -> None:
    """The answer is its arguments, as they come in a stream."""
    named = {"type": "function", "function": {"name": "weather"}}
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": named, "seed": 4, "temperature": 1}

    (call,) = chat(client, **asked).choices[0].message.tool_calls
    pieces = [p for d in deltas(chat(client, stream=True, **asked)) for p in d.delta.tool_calls]

    assert call.function.name == pieces[0].function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    assert len(pieces) > 3


def test_a_call_that_is_required_is_made(client: OpenAI) -> None:
    """Of any of the tools; in a stream it comes whole."""
    asked: dict[str, Any] = {
        "tools": TOOLS[:1], "tool_choice": "required", "parallel_tool_calls": False,
        "seed": 4, "temperature": 1,
    }  # fmt: skip

    whole = chat(client, **asked).choices[0]
    streamed = deltas(chat(client, stream=True, **asked))

    (call,) = whole.message.tool_calls
    (piece,) = [p for d in streamed for p in d.delta.tool_calls or ()]
    assert whole.finish_reason == streamed[-1].finish_reason == "tool_calls"
    assert call.function.name == piece.function.name == "weather"
    assert json.loads(call.function.arguments) == json.loads(piece.function.arguments)
    assert set(json.loads(call.function.arguments)) == {"city", "days"}


def test_a_model_that_may_call_and_does_not_answers(client: OpenAI) -> None:
    """As it does without tools; its template does not tell them."""
    answer = chat(client, tools=TOOLS).choices[0]
    pieces = list(chat(client, tools=TOOLS, stream=True))

    assert answer.message.content == content(pieces) == ANSWER
    assert not answer.message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"messages": [{"role": "user", "content": "x " * 2000}]}, "expected at most 511"),
        ({"messages": [{"role": "user", "content": "x"}], "top_p": 0}, "'top_p' is 0"),
        (
            {"response_format": {"type": "json_schema",
             "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
            "nonsense",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_told(
    client: OpenAI, wrong: dict[str, Any], words: str, stream: bool
) -> None:
    """With a status of its own, not as an event."""
    with pytest.raises(BadRequestError, match=words):
        chat(client, stream=stream, **wrong)


def test_an_answer_says_how_long_it_took_where_that_is_asked(client: OpenAI) -> None:
    """In a stream with its last chunk."""
    whole = chat(client, extra_body={"include_metrics": True})
    last = list(chat(client, stream=True, extra_body={"include_metrics": True}))[-1]

    assert whole.metrics["time_to_first_token_ms"] > 0
    assert set(last.metrics) == set(whole.metrics)
