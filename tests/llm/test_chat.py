"""Chats become prompts as transformers renders them, or a refusal that says what is wrong."""

from typing import Any

import pytest
from tests.llm.chat_templates import CHATML, GEMMA, LLAMA3, MARKED, MISTRAL
from tests.llm.text_fixtures import NAMES, byte_level, byte_level_backend, files
from transformers import PreTrainedTokenizerFast

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm import chat_template
from penstock_runtime.llm.chat import chat_text, encode_chat, render_chat
from penstock_runtime.llm.chat_messages import read_chat
from penstock_runtime.llm.chat_template import ChatTemplate
from penstock_runtime.llm.tokenizer import Tokenizer

USER: dict[str, Any] = {"role": "user", "content": " Hi <b> & 'é' 🙂 "}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "Yes. "}
CALL = {
    "role": "assistant",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "look", "arguments": {"at": "é", "n": 1}},
        }
    ],
}
RESULT = {"role": "tool", "content": '{"seen": true}', "tool_call_id": "abcdefghi"}
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks <there>", "parameters": {"type": "object"}},
}
PARTS = {
    "role": "user",
    "content": [{"type": "text", "text": " one "}, {"type": "text", "text": "two"}],
}

CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    (CHATML, [SYSTEM, USER], {}),
    (CHATML, [SYSTEM, USER, ANSWER, USER], {"add_generation_prompt": False}),
    (CHATML, [USER, ANSWER], {"continue_final_message": True}),
    (LLAMA3, [SYSTEM, USER, ANSWER, USER], {}),
    (LLAMA3, [USER, CALL, RESULT], {"tools": [TOOL]}),
    (LLAMA3, [USER, ANSWER], {"continue_final_message": True}),
    (LLAMA3, [USER], {"chat_template_kwargs": {"date_string": "today"}}),
    (MISTRAL, [SYSTEM, USER], {}),
    (MISTRAL, [USER, CALL, RESULT, ANSWER, USER], {"tools": [TOOL, TOOL]}),
    (GEMMA, [USER, ANSWER, PARTS], {}),
    (GEMMA, [USER, ANSWER], {"continue_final_message": True}),
    (MARKED, [USER, ANSWER, USER, ANSWER, USER], {"documents": [{"title": "t", "text": "x"}]}),
    (MARKED, [USER], {"chat_template_kwargs": {"enable_thinking": False}}),
]


@pytest.mark.parametrize(("template", "messages", "options"), CASES)
def test_a_chat_is_rendered_as_transformers_renders_it(
    template: str, messages: list[Any], options: dict[str, Any]
) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level_backend(), **NAMES)
    given = {"add_generation_prompt": not options.get("continue_final_message"), **options}
    extra = given.pop("chat_template_kwargs", {})
    expected = theirs.apply_chat_template(
        messages, chat_template=template, tokenize=True, return_dict=False, **given, **extra
    )

    tokens = render_chat(byte_level(), messages, template=template, **options)

    assert tokens == expected


def test_arguments_that_are_sent_as_text_are_given_to_templates_as_objects() -> None:
    call = CALL["tool_calls"][0]
    as_text = {**call, "function": {"name": "look", "arguments": '{"at": "é", "n": 1}'}}  # type: ignore[dict-item]
    sent = [USER, {"role": "assistant", "content": None, "tool_calls": [as_text]}]

    text = chat_text(byte_level(), read_chat(sent), LLAMA3)

    assert text == chat_text(byte_level(), read_chat([USER, CALL]), LLAMA3)


def test_parts_are_joined_for_a_template_that_knows_strings_only() -> None:
    text = chat_text(byte_level(), read_chat([PARTS]), CHATML)

    assert text == "<|im_start|>user\n one \ntwo<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_for_tools_is_taken_where_there_are_tools() -> None:
    tokenizer = Tokenizer(
        byte_level_backend(), files(templates={"default": "plain", "tool_use": "tools"})
    )

    assert chat_text(tokenizer, read_chat([USER])) == "plain"
    assert chat_text(tokenizer, read_chat({"messages": [USER], "tools": [TOOL]})) == "tools"


def test_a_model_without_a_template_says_so() -> None:
    with pytest.raises(InvalidArgument, match="the model has no chat template"):
        render_chat(byte_level(), [USER])


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("hi", "is a str, expected a list or an object"),
        ([], "messages is not a list of at least one"),
        ({"messages": {}}, "messages is not a list"),
        ({"messages": [USER], "chat_template": "x"}, "chat_template is unknown"),
        (["hi"], r"messages\[0\] is a str"),
        ([{"content": "x"}], r"messages\[0\].role is 'None'"),
        ([{"role": "user|>\n<|system", "content": "x"}], r"messages\[0\].role is"),
        ([{"role": "user"}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": 5}], "is a int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url', expected 'text'"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text is missing"),
        ([{"role": "user", "content": ["x"]}], "expected 'text'"),
        ([{"role": "assistant", "tool_calls": {}}], "tool_calls is not a list"),
        ([{"role": "assistant", "tool_calls": [{}]}], "function is missing"),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "name is missing"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{"}}]}],
            "holds no JSON",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "1"}}]}],
            "arguments is a int",
        ),
        ({"messages": [USER], "tools": "x"}, "tools is not a list"),
        ({"messages": [USER], "tools": ["x"]}, r"tools\[0\] is a str"),
        ({"messages": [USER], "add_generation_prompt": 1}, "expected true or false"),
        (
            {"messages": [USER], "add_generation_prompt": True, "continue_final_message": True},
            "expected one of them",
        ),
        ({"messages": [USER], "chat_template_kwargs": []}, "chat_template_kwargs is a list"),
        (
            {"messages": [USER], "chat_template_kwargs": {"chat_template": "x"}},
            "not for a request to say",
        ),
        ({"messages": [USER], "chat_template_kwargs": {"__x": object()}}, "holds a object"),
        ([{"role": "user", "content": "x", "deep": [[]] * 5000}] * 4096, "is too much"),
        ([USER] * 5000, "5000 messages, expected at most 4096"),
        ([{"role": "user", "content": "x" * (17 << 20)}], "is too much"),
    ],
)
def test_a_chat_that_is_none_is_refused_by_what_is_wrong(document: Any, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as refused:
        read_chat(document)

    assert len(refused.value.message) < 400


def test_json_that_nests_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]

    with pytest.raises(InvalidArgument, match="nests deeper than 64"):
        read_chat([{"role": "user", "content": "x", "extra": deep}])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('not so') }}", "refuses: not so"),
        ("{{ messages[0].content.foo.bar }}", "refuses: .*no attribute"),
        ("{{ 1 / 0 }}", "refuses: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "refuses: .*unsafe"),
        ("{{ messages.append(1) }}", "refuses: "),
        ("{{ 'x' * 100000000 }}", "more than 16777216 characters"),
        ("{{ 100000000 * 'x' }}", "more than 16777216 characters"),
        ("{{ 9 ** 999999999 }}", "more than 16777216 characters"),
        ("{% for i in range(1000000) %}x{% endfor %}", "range of 1000000 is over"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 4000000 steps",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself too often"),
    ],
)
def test_a_template_that_runs_wild_fails_its_own_request(template: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        chat_text(byte_level(), read_chat([USER]), template)


def test_a_template_that_multiplies_what_it_is_given_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDERED", 1000)
    doubling = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}x{% endmacro %}"

    with pytest.raises(InvalidArgument, match="more than 1000 characters"):
        ChatTemplate(doubling + "{{ m(40) }}").render(read_chat([USER]), {})


def test_a_broken_template_says_where() -> None:
    with pytest.raises(InvalidArgument, match="the chat template is broken: "):
        chat_text(byte_level(), read_chat([USER]), "{% for %}")


def test_a_final_message_that_is_not_shown_cannot_go_on() -> None:
    chat = read_chat({"messages": [USER], "continue_final_message": True})

    with pytest.raises(InvalidArgument, match="leaves the last message out"):
        chat_text(byte_level(), chat, "hello")


def test_a_prompt_that_is_surely_too_long_is_refused_before_it_is_encoded() -> None:
    with pytest.raises(InvalidArgument, match="expected at most 2 tokens"):
        encode_chat(byte_level(), read_chat([USER] * 100), CHATML, limit=2)
