"""Chat completions as OpenAI's client sees them: messages, pieces, probabilities, forms."""

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

TEXT = "hello big world"


def user(text: str) -> list[Any]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def shown(client: OpenAI, **more: Any) -> dict[str, Any]:
    """What the model was given."""
    arguments: dict[str, Any] = {"messages": user("!show"), **more}
    answer = client.chat.completions.create(model="words", **arguments)
    found: dict[str, Any] = json.loads(answer.choices[0].message.content or "")
    return found


def test_a_conversation_goes_on(client: OpenAI) -> None:
    """As many tokens as fit, if nothing is said of them."""
    answer = client.chat.completions.create(model="words", messages=user(TEXT), n=2)

    assert [(c.index, c.message.content) for c in answer.choices] == [(0, TEXT), (1, TEXT)]
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == (
        "assistant",
        "stop",
    )
    assert (answer.object, answer.id[:9]) == ("chat.completion", "chatcmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 10)
    assert shown(client)["sampling"] == {"max_tokens": None}


def test_a_bound_on_tokens_is_told_as_length(client: OpenAI) -> None:
    """By either of its names."""
    new = client.chat.completions.create(
        model="words", messages=user(TEXT), max_completion_tokens=2
    )
    old = client.chat.completions.create(model="words", messages=user(TEXT), max_tokens=1)

    assert (new.choices[0].message.content, new.choices[0].finish_reason) == ("hello", "length")
    assert old.choices[0].message.content == "hell"


def test_a_stop_string_is_told(client: OpenAI) -> None:
    """As the reason of the end, which is the stop of OpenAI."""
    answer = client.chat.completions.create(model="words", messages=user(TEXT), stop="big")

    choice: Any = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("hello", "stop")
    assert choice.stop_reason == "big"


def test_pieces_add_up_to_the_whole(client: OpenAI) -> None:
    """The role with the first, the reason with the last, what it took behind it."""
    chunks = list(
        client.chat.completions.create(
            model="words", messages=user(TEXT), stream=True, n=2,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    deltas = [chunk.choices[0] for chunk in chunks[:-1]]
    for index in (0, 1):
        own = [choice for choice in deltas if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in own) == TEXT
        assert [choice.delta.role for choice in own] == ["assistant", None, None, None, None]
        assert [choice.finish_reason for choice in own][-2:] == [None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_name_bytes_and_the_likeliest(client: OpenAI, stream: bool) -> None:
    """The likeliest are as many as were asked for."""
    made: Any = client.chat.completions.create(
        model="words", messages=user(TEXT), logprobs=True, top_logprobs=2, stream=stream
    )
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    found = [entry for choice in choices for entry in choice.logprobs.content]

    assert "".join(entry.token for entry in found) == TEXT
    assert bytes(found[0].bytes) == b"hell"
    assert [top.token for top in found[0].top_logprobs] == ["hell", "other"]


def test_messages_are_told_in_the_form_that_templates_know(client: OpenAI) -> None:
    """Parts are one text, arguments of calls an object, and OpenAI's developer is the system."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    messages: list[Any] = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
        *user("!show"),
    ]

    given = shown(
        client, messages=messages, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
    )["given"]

    told = {"name": "f", "arguments": {"x": 1}}
    assert given["messages"][:4] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "", "tool_calls": [{**call, "function": told}]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    ]
    assert given["chat_template_kwargs"] == {"enable_thinking": False}


class _Word(BaseModel):
    word: str


def test_a_form_of_the_answer_reaches_the_model(client: OpenAI) -> None:
    """Whichever way it is asked for, and once only."""
    schema: dict[str, Any] = {"type": "object"}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    parsed = client.chat.completions.parse(
        model="words", messages=user('{"word": "yes"}'), response_format=_Word
    )

    assert shown(client, response_format=asked)["sampling"]["json"] == schema
    assert shown(client, response_format={"type": "json_object"})["sampling"]["json_object"] is True
    assert shown(client, response_format={"type": "text"})["sampling"] == {"max_tokens": None}
    assert parsed.choices[0].message.parsed == _Word(word="yes")


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}


def calling(arguments: str) -> list[Any]:
    """A conversation in which a tool was called."""
    function = {"name": "f", "arguments": arguments}
    return [{"role": "assistant", "tool_calls": [{"id": "c", "function": function}]}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", calling("{")), ("messages", calling("[" * 100_000)),
        ("messages", []), ("messages", "a"), ("messages", [1]), ("messages", [{"content": "a"}]),
        ("messages", [IMAGE]), ("messages", [{"role": "user", "content": 5}]),
        ("chat_template", "{{ 1 }}"), ("functions", [{"name": "f"}]), ("modalities", ["audio"]),
        ("tools", [{"type": "function", "function": {}}]), ("tool_choice", "required"),
        ("top_logprobs", 3), ("response_format", {"type": "xml"}), ("max_completion_tokens", 0),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: OpenAI, field: str, value: Any) -> None:
    """400, with the field, or the part of it, as `param`."""
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(
            model="words", messages=user("a"), extra_body={"messages": user("a"), field: value}
        )

    assert field in str(caught.value.body)
