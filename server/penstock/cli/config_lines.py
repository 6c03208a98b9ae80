"""On which line of a configuration text a field stands: protobuf text and JSON alike.

It does not judge the text: what it cannot follow it skips, and the caller falls back to the nearest
field around.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)"""
    r"""|(?P<word>[\w.+-]+)|(?P<mark>.)"""
)
_OPEN = {"{": "}", "<": ">"}
_LAST_PART = re.compile(r"(?:\[[^\]]*\]|\.?[^.\[\]]*)$")
_NO_INDEX = re.compile(r"(?<![\].])\.")
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def line_of(text: str, field: str) -> int:
    """The line (from 1) of a field such as input[0].dims, of what holds it, or 0 if unknown."""
    lines = field_lines(text)
    # What is not repeated is named without an index.
    field = _NO_INDEX.sub("[0].", field)
    while field:
        if field in lines:
            return lines[field]
        field = _LAST_PART.sub("", field)
    return 0


def field_lines(text: str) -> Mapping[str, int]:
    """The line of every field under its path, in which all parts bear an index, as in a[0].b[1].

    The last part also stands without one, for the place where the field is first named.
    """
    reader = _Reader(list(_tokens(text)))
    if reader.peek() == "{":
        reader.take()
    reader.message("", 0)
    return reader.lines


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind != "space":
            yield _Token(kind, match.group(), line)
        line += match.group().count("\n")


class _Reader:
    """Walks the tokens and notes where each path begins."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self.lines: dict[str, int] = {}

    def peek(self) -> str:
        """The text of the next token, "" at the end."""
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def take(self) -> _Token:
        """The next token."""
        self._at += 1
        return self._tokens[self._at - 1]

    def message(self, prefix: str, depth: int) -> None:
        """Fields up to the bracket that closes the message, or the end."""
        counts: Counter[str] = Counter()
        while self.peek() and self.peek() not in ("}", ">"):
            name = self.take()
            if name.kind == "mark":
                continue
            path = prefix + name.text.strip("\"'")
            if self.peek() == ":":
                self.take()
            self._value(path, name.line, counts, depth)
        if self.peek():
            self.take()

    def _value(self, path: str, line: int, counts: Counter[str], depth: int) -> None:
        if self.peek() != "[":
            self._element(path, line, counts, depth)
            return
        self.lines.setdefault(path, line)
        self.take()
        while self.peek() and self.peek() != "]":
            if self.peek() == ",":
                self.take()
            elif self._at < len(self._tokens):
                self._element(path, self._tokens[self._at].line, counts, depth)
        if self.peek():
            self.take()

    def _element(self, path: str, line: int, counts: Counter[str], depth: int) -> None:
        here = f"{path}[{counts[path]}]"
        counts[path] += 1
        self.lines.setdefault(path, line)
        self.lines[here] = line
        if self.peek() in _OPEN and depth < _DEEPEST:
            self.take()
            self.message(here + ".", depth + 1)
        elif self.peek():
            self.take()
