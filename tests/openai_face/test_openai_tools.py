"""Calls of tools: found in what a model writes, however that is cut."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from tests.openai_face.test_openai_chat import shown, user

from penstock.openai.tool_calls import CallFinder, CallPiece

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("f", "g")
]
F = '{"name": "f", "arguments": {"x": 1}}'
G = '{"name": "g", "parameters": {"say": "</tool_call> twice"}}'
NAMES = frozenset(("f", "g"))
X1, SAY = '{"x": 1}', '{"say": "</tool_call> twice"}'
CASES = [
    ("plain words, {no} <tool> call", "plain words, {no} <tool> call", []),
    (f"<tool_call>\n{F}\n</tool_call>", "", [("f", X1)]),
    (f"Let me see.\n<tool_call>{F}</tool_call>\n<tool_call>{G}</tool_call>", "Let me see.",
     [("f", X1), ("g", SAY)]),
    (f"<tool_call>{F}</tool_call> done, I think", "done, I think", [("f", X1)]),
    (f"<tool_call>{F}", "", [("f", X1)]),
    (f"<tool_call>oh no</tool_call><tool_call>{F}</tool_call>", "<tool_call>oh no</tool_call>",
     [("f", X1)]),
    (F, "", [("f", X1)]),
    (f"<|python_tag|>{F}; {G}", "", [("f", X1), ("g", SAY)]),
    (f"[TOOL_CALLS][{F}, {G}]", "", [("f", X1), ("g", SAY)]),
    ('  {"name": "other", "arguments": {}}', '  {"name": "other", "arguments": {}}', []),
    ('{"answer": 42}', '{"answer": 42}', []),
    ("[1, 2", "[1, 2", []),
    ("[" * 5000, "[" * 5000, []),
    ("<tool_call>" + "[" * 5000 + "</tool_call>", "<tool_call>" + "[" * 5000 + "</tool_call>", []),
    ("<", "<", []),
    ("a <tool_cal", "a <tool_cal", []),
    ("  indented\n\nlines \n", "  indented\n\nlines \n", []),
]  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(CASES), st.data())
def test_however_a_text_is_cut_the_same_is_found(case: Any, data: st.DataObject) -> None:
    """Content and calls, with the arguments whole."""
    text, content, calls = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    finder = CallFinder(NAMES)

    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = [*map(finder.push, pieces), finder.finish()]

    assert "".join(piece.content for piece in found) == content
    assert [(c.name, c.arguments) for piece in found for c in piece.calls] == calls
    assert finder.called == bool(calls)


def test_what_is_no_call_is_not_held_back() -> None:
    """Content comes as soon as it cannot be the beginning of one."""
    finder = CallFinder(NAMES)

    told = [finder.push(piece).content for piece in ("Yes", ", a", " < b", " <to", "morrow>")]

    assert told == ["Yes", ", a", " < b", "", " <tomorrow>"]


def test_only_the_first_call_counts_if_there_may_be_one() -> None:
    """The others are dropped."""
    finder = CallFinder(NAMES, parallel=False)

    found = finder.push(f"<tool_call>{F}</tool_call><tool_call>{G}</tool_call>")

    assert found.calls == [CallPiece(0, "f", X1)]


@pytest.mark.parametrize("stream", [False, True])
def test_the_client_gets_calls(client: OpenAI, stream: bool) -> None:
    """Numbered, each with an id, and the reason says so."""
    text = f"Well.\n<tool_call>\n{F}\n</tool_call>\n<tool_call>\n{G}\n</tool_call>"
    made: Any = client.chat.completions.create(
        model="words", messages=user(text), tools=TOOLS, stream=stream
    )
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    messages = [choice.delta if stream else choice.message for choice in choices]
    calls = [call for message in messages for call in message.tool_calls or ()]

    assert "".join(message.content or "" for message in messages) == "Well."
    assert [(c.function.name, c.function.arguments) for c in calls] == [("f", X1), ("g", SAY)]
    assert len({call.id for call in calls}) == 2
    assert choices[-1].finish_reason == "tool_calls"
    if stream:
        assert [call.index for call in calls] == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_gets_the_whole_answer(client: OpenAI, stream: bool) -> None:
    """As its arguments, in pieces as they come."""
    choice: Any = {"type": "function", "function": {"name": "f"}}
    made: Any = client.chat.completions.create(
        model="words", messages=user('{"x": 12345}'), tools=TOOLS, tool_choice=choice, stream=stream
    )
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]
    messages = [choice.delta if stream else choice.message for choice in choices]
    calls = [call for message in messages for call in message.tool_calls or ()]

    assert "".join(call.function.arguments for call in calls) == '{"x": 12345}'
    assert [call.function.name for call in calls if call.function.name] == ["f"]


def test_the_model_is_told_the_form_of_a_call_that_it_must_make(client: OpenAI) -> None:
    """The schema of the arguments."""
    choice: Any = {"type": "function", "function": {"name": "f"}}
    made = client.chat.completions.create(
        model="words", messages=user("!show"), tools=TOOLS, tool_choice=choice
    )

    calls: Any = made.choices[0].message.tool_calls
    assert json.loads(calls[0].function.arguments)["sampling"]["json"] == SCHEMA


def test_some_tool_must_be_called(client: OpenAI) -> None:
    """The answer is an array of calls, by a schema that has each of them."""
    made = client.chat.completions.create(
        model="words", messages=user(f"[{F}]"), tools=TOOLS, tool_choice="required"
    )

    calls: Any = made.choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [("f", X1)]
    assert made.choices[0].finish_reason == "tool_calls"


def test_without_a_choice_of_tools_there_are_none(client: OpenAI) -> None:
    """The template is not told of them, and nothing is taken for a call."""
    given = shown(client, tools=TOOLS, tool_choice="none")["given"]
    made = client.chat.completions.create(
        model="words", messages=user(F), tools=TOOLS, tool_choice="none"
    )

    assert "tools" not in given
    assert json.loads(made.choices[0].message.content or "")["name"] == "f"
    assert made.choices[0].message.tool_calls is None
