"""Calls of tools in the text that a model writes, found while it is written.

Two ways of writing them are known. Between tags, as Hermes, Qwen and many others do:

    <tool_call>
    {"name": "f", "arguments": {"x": 1}}
    </tool_call>

And as the whole answer, as Llama and Mistral do: such an object, several of them, or an array. A
text that might be one is held back until that is known; what turns out to be no call is content. A
call is told when it is complete, so that no caller ever gets half of its arguments.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
_BETWEEN = re.compile(r"[\s,;]*")
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Of a call: its number, its name with the first piece, and its arguments (JSON), or more of
    them.
    """

    number: int
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a piece of text turned out to be."""

    content: str = ""
    calls: list[CallPiece] = field(default_factory=list)


class PlainText:
    """Of a model that has no tools: all is content."""

    called = False

    def push(self, text: str) -> Found:
        """More text."""
        return Found(text)

    def finish(self) -> Found:
        """No more text."""
        return Found()


class Arguments:
    """Of a model that had to call one tool: all is arguments."""

    called = False

    def __init__(self, name: str) -> None:
        self._name = name

    def push(self, text: str) -> Found:
        """More text."""
        name, self._name = self._name, ""
        return Found("", [CallPiece(0, name, text)]) if name or text else Found()

    def finish(self) -> Found:
        """No more text."""
        return Found()


class CallFinder:
    """Of a model that may call tools of these names."""

    def __init__(self, names: frozenset[str], *, parallel: bool = True) -> None:
        self._names = names
        self._parallel = parallel
        self._count = 0
        self._text = ""
        self._state = self._start

    @property
    def called(self) -> bool:
        """Whether a call was found."""
        return self._count > 0

    def push(self, text: str) -> Found:
        """More text."""
        self._text += text
        return self._found(final=False)

    def finish(self) -> Found:
        """No more text: what was held back is told for what it is."""
        return self._found(final=True)

    def _found(self, *, final: bool) -> Found:
        content, calls, state = "", list[dict[str, Any]](), None
        # A state that has done what it can with the text leaves it to the next one.
        while state != self._state:
            state = self._state
            told, more = self._state(final)
            content += told
            calls += more
        return Found(content, list(self._told(calls)))

    def _told(self, calls: list[dict[str, Any]]) -> Iterator[CallPiece]:
        for call in calls:
            if self._parallel or not self._count:
                arguments = call.get("arguments", call.get("parameters"))
                if not isinstance(arguments, str):
                    arguments = json.dumps(arguments or {}, ensure_ascii=False)
                yield CallPiece(self._count, call["name"], arguments)
            self._count += 1

    # -- states: what is told of the text, and the calls in it -------------------------------------

    def _start(self, final: bool) -> tuple[str, list[dict[str, Any]]]:
        """Nothing is known yet: the first characters decide."""
        head = self._text.lstrip()
        if not final and any(mark.startswith(head) for mark in (*_MARKS, OPEN)):
            return "", []
        self._state = self._whole if head.startswith(("{", "[", *_MARKS)) else self._between
        return "", []

    def _whole(self, final: bool) -> tuple[str, list[dict[str, Any]]]:
        """The whole answer may be calls, which is known at its end."""
        if not final:
            return "", []
        text, self._text = self._text, ""
        calls = self._read_all(text)
        return ("", calls) if calls else (text, [])

    def _between(self, final: bool) -> tuple[str, list[dict[str, Any]]]:
        """Content, up to the next tag."""
        before, tag, rest = self._text.partition(OPEN)
        if tag:
            self._text, self._state = rest, self._inside
            return before.rstrip(), []
        kept = 0 if final else _begun(self._text)
        told, self._text = self._text[: len(before) - kept], before[len(before) - kept :]
        return told, []

    def _inside(self, final: bool) -> tuple[str, list[dict[str, Any]]]:
        """Between two tags: a call, once it can be read; a text in it may hold the tag too."""
        if CLOSE not in self._text and not final:
            return "", []
        call, rest = _first_call(self._text)
        if call is not None and (final or rest.startswith(CLOSE) or not CLOSE.startswith(rest)):
            self._text, self._state = rest.removeprefix(CLOSE), self._after
            return "", [call]
        if not final:
            return "", []
        # No call after all.
        text, tag, self._text = self._text.partition(CLOSE)
        self._state = self._between
        return OPEN + text + tag, []

    def _after(self, final: bool) -> tuple[str, list[dict[str, Any]]]:
        """Behind a call, up to what is no blank."""
        self._text = self._text.lstrip()
        if self._text or final:
            self._state = self._between
        return "", []

    def _read_all(self, text: str) -> list[dict[str, Any]]:
        """The calls that a text is made of; none if anything else is in it."""
        text = text.strip()
        for mark in _MARKS:
            text = text.removeprefix(mark)
        found: list[Any] = []
        at = 0
        try:
            while at < len(text):
                value, at = _decode(text, _skipped(text, at))
                found += value if isinstance(value, list) else [value]
                at = _skipped(text, at)
        except (ValueError, RecursionError):
            return []
        return found if all(_is_call(c) and c["name"] in self._names for c in found) else []


def _is_call(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and ("arguments" in value or "parameters" in value)
    )


def _skipped(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _first_call(text: str) -> tuple[dict[str, Any] | None, str]:
    """The call that a text begins with, and what is behind it."""
    try:
        value, end = _decode(text, _skipped(text, 0))
    except (ValueError, RecursionError):
        return None, text
    return (value, text[end:].lstrip()) if _is_call(value) else (None, text)


def _begun(text: str) -> int:
    """How many of the last characters may be the beginning of a tag, or blanks before one."""
    sizes = range(min(len(OPEN) - 1, len(text)), 0, -1)
    size = next((size for size in sizes if text.endswith(OPEN[:size])), 0)
    return len(text) - len(text[: len(text) - size].rstrip())
