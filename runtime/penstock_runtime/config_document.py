"""JSON and YAML text as plain mappings: bounded in size and depth before anything is built, each
key once.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from penstock_runtime.config_kinds import shown
from penstock_runtime.errors import InvalidArgument, Unsupported

JSON_LIMIT = 4 << 20
# Reading YAML takes a hundred times as long as reading JSON, and no one writes so much of it.
YAML_LIMIT = 256 << 10
DEPTH_LIMIT = 100

# Possessive, so that no text makes it go back: a string that never ends is read once.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)

# YAML 1.1 takes 1:30 for 90, and for a long one of these the time grows with its square.
_SEXAGESIMAL = re.compile(r"[-+]?[0-9_]+(?::[0-9_]+)+[0-9_.]*")


def json_document(text: bytes | str) -> object:
    """What JSON text says; InvalidArgument for text that is too large, too deep or no JSON."""
    plain = decode(text, "JSON", JSON_LIMIT)
    check_depth(plain, _JSON_TOKEN, "JSON")
    try:
        return json.loads(plain, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"configuration is not valid JSON: line {error.lineno}, column {error.colno}:"
            f" {error.msg}"
        ) from None
    except ValueError:
        # Python refuses to convert integers of thousands of digits.
        raise InvalidArgument("configuration holds an integer of too many digits") from None


def decode(text: bytes | str, language: str, limit: int) -> str:
    """Text of at most `limit` bytes, from UTF-8."""
    if len(text) > limit:
        raise InvalidArgument(
            f"configuration of {len(text)} bytes is too large, {language} may have {limit}"
        )
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"configuration is not UTF-8: byte {text[error.start]:#04x} at offset {error.start}"
        ) from None


def check_depth(text: str, token: re.Pattern[str], language: str) -> None:
    """InvalidArgument if brackets nest too deep; `token` matches brackets, and strings whole."""
    depth = 0
    for match in token.finditer(text):
        first = match.group()[0]
        if first in "[{<":
            depth += 1
        elif first in "]}>":
            depth -= 1
        if depth > DEPTH_LIMIT:
            raise _too_deep(language)


def _too_deep(language: str) -> InvalidArgument:
    return InvalidArgument(f"configuration nests deeper than {DEPTH_LIMIT} levels of {language}")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _given_twice(key)
        found[key] = value
    return found


def _given_twice(key: str) -> InvalidArgument:
    return InvalidArgument(f"configuration gives the key {shown(key)} twice in one object")


def _no_constant(name: str) -> NoReturn:
    raise InvalidArgument(f'configuration is not valid JSON: write "{name}" in quotes')


def yaml_document(text: bytes | str) -> object:
    """What YAML text says; anchors, tags and keys given twice are refused with all that is no YAML.

    An alias repeats what it points to, so that a short text could say more than memory holds.
    """
    try:
        import yaml
    except ImportError:
        raise Unsupported("YAML configurations need PyYAML: pip install penstock[yaml]") from None
    plain = decode(text, "YAML", YAML_LIMIT)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _YamlGuard().check(yaml.parse(plain, Loader=loader))
        return yaml.load(plain, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise InvalidArgument(
            f"configuration is not valid YAML: {_place(error.problem_mark)}{error.problem}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidArgument(
            f"configuration is not valid YAML: {' '.join(str(error)[:200].split())}"
        ) from None


def _place(mark: object) -> str:
    line, column = getattr(mark, "line", None), getattr(mark, "column", None)
    if line is None or column is None:
        return ""
    return f"line {line + 1}, column {column + 1}: "


class _YamlGuard:
    """Follows the events of a parser, one set of keys per open mapping, None per open list."""

    def __init__(self) -> None:
        self._open: list[set[str] | None] = []
        self._at_key: list[bool] = []

    def check(self, events: Iterable[Any]) -> None:
        """InvalidArgument at the first event that has no place in a configuration."""
        for event in events:
            kind = type(event).__name__
            if kind == "AliasEvent" or getattr(event, "anchor", None) is not None:
                raise _refused("anchors and aliases", event)
            if getattr(event, "tag", None) is not None:
                raise _refused("tags", event)
            quoted = getattr(event, "style", None)
            if not quoted and _SEXAGESIMAL.fullmatch(getattr(event, "value", "")):
                raise _refused("numbers to the base of 60", event)
            if kind.endswith(("ScalarEvent", "SequenceStartEvent", "MappingStartEvent")):
                self._node(event)
            if kind in ("SequenceStartEvent", "MappingStartEvent"):
                self._enter(set() if kind == "MappingStartEvent" else None)
            elif kind in ("SequenceEndEvent", "MappingEndEvent"):
                self._open.pop()
                self._at_key.pop()

    def _node(self, event: Any) -> None:
        if not self._open or self._open[-1] is None:
            return
        if self._at_key[-1]:
            key = str(getattr(event, "value", ""))
            if key in self._open[-1]:
                raise _given_twice(key)
            self._open[-1].add(key)
        self._at_key[-1] = not self._at_key[-1]

    def _enter(self, keys: set[str] | None) -> None:
        self._open.append(keys)
        self._at_key.append(keys is not None)
        if len(self._open) > DEPTH_LIMIT:
            raise _too_deep("YAML")


def _refused(what: str, event: Any) -> InvalidArgument:
    place = _place(event.start_mark).rstrip(": ")
    return InvalidArgument(f"configuration may not use {what} of YAML ({place})")
