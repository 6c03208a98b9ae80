"""JSON that a caller sends, within bounds: its depth, the number of its arrays and objects, of its
strings and of its values, no name twice, and no number that JSON does not have.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from penstock.codec.wire import shown
from penstock_runtime.errors import InvalidArgument

MAX_DEPTH = 100
MAX_CONTAINERS = 1 << 20
"""Each takes twenty times the memory of the three bytes that it can be written in."""
MAX_STRINGS = 1 << 20
"""Each takes thirty times the memory of the five bytes that it can be written in."""
MAX_VALUES = 1 << 23
"""A number takes ten times the memory of its four bytes, and a body may be compressed besides."""

_STRING = re.compile(rb'"[^"]*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def read_document(data: bytes | memoryview, what: str = "the request") -> Any:
    """What the JSON in `data` says; InvalidArgument where it is none, or goes beyond a bound."""
    text = bytes(data)
    containers = text.count(b"[") + text.count(b"{")
    if containers > MAX_CONTAINERS:
        _refuse(what, f"has more than {MAX_CONTAINERS} arrays and objects")
    # Of a short text there is nothing to count.
    if len(text) > MAX_STRINGS:
        _check_counts(text, what)
    # Fewer cannot be nested deeper.
    if containers > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        _refuse(what, f"is nested more than {MAX_DEPTH} deep")
    try:
        return _decode(text.decode())
    except UnicodeDecodeError:
        _refuse(what, "is not UTF-8")
    except json.JSONDecodeError as error:
        _refuse(what, f"is not JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        _refuse(what, f"is nested more than {MAX_DEPTH} deep")
    except ValueError:
        # Python's own bound on the digits of a number.
        _refuse(what, "has a number with too many digits")


def _check_counts(text: bytes, what: str) -> None:
    """Refuse what would take far more memory than the body that it came in."""
    hint = "send tensors as binary data"
    if (text.count(b'"') - text.count(b'\\"')) // 2 > MAX_STRINGS:
        _refuse(what, f"has more than {MAX_STRINGS} strings; {hint}")
    if text.count(b",") >= MAX_VALUES:
        _refuse(what, f"has more than {MAX_VALUES} values; {hint}")


def read_object(data: bytes | memoryview, what: str = "the request") -> Mapping[str, Any]:
    """As `read_document`, where an object is expected; nothing at all is an empty one."""
    document = read_document(data, what) if len(data) else {}
    return expect_object(document, what)


def expect_object(value: Any, what: str) -> Mapping[str, Any]:
    """The object; InvalidArgument if it is anything else."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is {kind_of(value)}, expected an object")
    return value


def expect_text(value: Any, what: str) -> str:
    """The text; InvalidArgument if it is anything else, or cannot be written in UTF-8."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{what} is {kind_of(value)}, expected a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{what} has half a surrogate pair, which is no text") from None
    return value


def write_document(value: Any) -> bytes:
    """The value as JSON; floats that are not finite are written NaN, Infinity and -Infinity."""
    return _encode(value).encode(errors="replace")


def kind_of(value: Any) -> str:
    """What JSON calls a value like this one."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return names.get(type(value)) or ("an array" if isinstance(value, list) else "an object")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidArgument(f"the name {shown(name)!r} is twice in one object")
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    raise InvalidArgument(f"{name} is no number of JSON; send such values as binary data")


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).decode


def _depth(text: bytes) -> int:
    """How deep arrays and objects are nested; brackets in strings are not counted."""
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = np.frombuffer(_STRING.sub(b"", plain).translate(None, _NOT_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.where(opening, 1, -1).cumsum().max(initial=0))


def _refuse(what: str, problem: str) -> NoReturn:
    raise InvalidArgument(f"{what} {problem}")
