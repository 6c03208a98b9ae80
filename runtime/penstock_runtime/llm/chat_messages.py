"""The messages of a chat, checked: what a template may be given.

Everything in it is plain JSON of bounded size. It knows no template and no tokenizer.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from penstock_runtime.errors import InvalidArgument, Violation

MAX_MESSAGES = 4096
MAX_CHARACTERS = 16 << 20
MAX_TOOLS = 512
# What any value counts for beside the characters of a string: it takes that much to hold.
_EACH = 64
MAX_DEPTH = 64
NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

# Templates put a role between their control marks, so it must not be able to write such marks.
_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_FIELDS = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
)
# What a template is given anyway, and what chooses one: not a request's to say.
_RESERVED = frozenset((*_FIELDS, "chat_template", "tokenize", "raise_exception", "strftime_now"))


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat to render. `add_generation_prompt` puts the head of the assistant's turn at its end;
    `continue_final_message` leaves its last message open instead.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    documents: tuple[Mapping[str, Any], ...] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=lambda: NO_KWARGS)


def read_chat(document: object) -> Chat:
    """The chat that a list of messages is, or an object with `messages` and what else a template
    takes; InvalidArgument names what is wrong with it.
    """
    if isinstance(document, list | tuple):
        document = {"messages": document}
    if not isinstance(document, Mapping):
        _refuse("messages", f"is a {type(document).__name__}, expected a list or an object")
    unknown = [name for name in document if name not in _FIELDS]
    if unknown:
        _refuse(str(unknown[0])[:64], f"is unknown, expected {', '.join(_FIELDS)}")
    plain = _Plain()
    resumes = _flag(document, "continue_final_message", False)
    return Chat(
        messages=_messages(document.get("messages"), plain),
        tools=_objects(document.get("tools"), "tools", plain),
        documents=_objects(document.get("documents"), "documents", plain),
        add_generation_prompt=_generation(document, resumes),
        continue_final_message=resumes,
        kwargs=_kwargs(document.get("chat_template_kwargs"), plain),
    )


def _refuse(field_name: str, problem: str) -> NoReturn:
    raise InvalidArgument(
        f"chat: {field_name} {problem}", violations=(Violation(field_name, problem),)
    )


class _Plain:
    """Copies JSON as plain objects, up to a size in all and a depth."""

    def __init__(self) -> None:
        self._left = MAX_CHARACTERS

    def copy(self, value: object, name: str, depth: int = 0) -> Any:
        """A copy in which strings, numbers, lists and dicts are just that."""
        self._left -= _EACH + (len(value) if isinstance(value, str) else 0)
        if self._left < 0:
            _refuse(name, f"is too much: a chat may have {MAX_CHARACTERS} characters")
        if depth > MAX_DEPTH:
            _refuse(name, f"nests deeper than {MAX_DEPTH} levels")
        if value is None or type(value) in (str, bool, int, float):
            return value
        if isinstance(value, list | tuple):
            return [self.copy(one, name, depth + 1) for one in value]
        if not isinstance(value, Mapping):
            _refuse(name, f"holds a {type(value).__name__}, expected JSON")
        return {
            self.copy(str(key), name): self.copy(one, name, depth + 1) for key, one in value.items()
        }


def _flag(document: Mapping[str, Any], name: str, usual: bool) -> bool:
    value = document.get(name)
    if value is None:
        return usual
    if not isinstance(value, bool):
        _refuse(name, f"is {str(value)[:64]!r}, expected true or false")
    return value


def _generation(document: Mapping[str, Any], resumes: bool) -> bool:
    adds = _flag(document, "add_generation_prompt", not resumes)
    if adds and resumes:
        _refuse(
            "continue_final_message", "and add_generation_prompt are true, expected one of them"
        )
    return adds


def _messages(value: object, plain: _Plain) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list | tuple) or not value:
        _refuse("messages", "is not a list of at least one message")
    if len(value) > MAX_MESSAGES:
        _refuse("messages", f"has {len(value)} messages, expected at most {MAX_MESSAGES}")
    return tuple(
        _message(plain.copy(one, f"messages[{place}]"), f"messages[{place}]", plain)
        for place, one in enumerate(value)
    )


def _message(message: Any, name: str, plain: _Plain) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        _refuse(name, f"is a {type(message).__name__}, expected an object")
    # Clients send what they do not use as null, which templates would print.
    message = {key: value for key, value in message.items() if value is not None}
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        _refuse(f"{name}.role", f"is {str(role)[:64]!r}, expected a word such as 'user'")
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{name}.tool_calls", plain)
    if "content" in message:
        _check_content(message["content"], f"{name}.content")
    elif "tool_calls" not in message:
        _refuse(f"{name}.content", "is missing, expected a string or a list of parts")
    return _with_reasoning(message)


def _check_content(content: object, name: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        _refuse(name, f"is a {type(content).__name__}, expected a string or a list of parts")
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, dict) or kind != "text":
            _refuse(f"{name}[{place}].type", f"is {str(kind)[:64]!r}, expected 'text'")
        if not isinstance(part.get("text"), str):
            _refuse(f"{name}[{place}].text", "is missing or no string")


def _tool_calls(calls: object, name: str, plain: _Plain) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or len(calls) > MAX_TOOLS:
        _refuse(name, f"is not a list of at most {MAX_TOOLS} calls")
    return [_tool_call(call, f"{name}[{place}]", plain) for place, call in enumerate(calls)]


def _tool_call(call: object, name: str, plain: _Plain) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        _refuse(f"{name}.function", "is missing, expected an object with name and arguments")
    if not isinstance(function.get("name"), str):
        _refuse(f"{name}.function.name", "is missing or no string")
    arguments = _arguments(function.get("arguments"), f"{name}.function.arguments", plain)
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(value: object, name: str, plain: _Plain) -> object:
    """Clients send them as text that holds JSON, and templates expect the object."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            _refuse(name, "is a string that holds no JSON")
    if not isinstance(value, dict):
        _refuse(name, f"is a {type(value).__name__}, expected an object")
    return plain.copy(value, name)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """What a message was reasoned by has three names; templates read one or another."""
    names = ("reasoning_content", "thinking", "reasoning")
    text = next((message[name] for name in names if name in message), None)
    return message if text is None else {"thinking": text, **message, "reasoning_content": text}


def _objects(value: object, name: str, plain: _Plain) -> tuple[Mapping[str, Any], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or len(value) > MAX_TOOLS:
        _refuse(name, f"is not a list of at most {MAX_TOOLS} objects")
    for place, one in enumerate(value):
        if not isinstance(one, Mapping):
            _refuse(f"{name}[{place}]", f"is a {type(one).__name__}, expected an object")
    # Some templates speak of tools even where the list of them is empty.
    return tuple(plain.copy(one, name) for one in value) or None


def _kwargs(value: object, plain: _Plain) -> Mapping[str, Any]:
    if value is None:
        return NO_KWARGS
    name = "chat_template_kwargs"
    if not isinstance(value, Mapping):
        _refuse(name, f"is a {type(value).__name__}, expected an object")
    for key in value:
        if not isinstance(key, str) or not _NAME.fullmatch(key) or key in _RESERVED:
            _refuse(f"{name}.{str(key)[:64]}", "is not for a request to say")
    return MappingProxyType(plain.copy(value, name))
