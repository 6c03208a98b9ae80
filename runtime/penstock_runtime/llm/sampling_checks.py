"""Readers of single values from JSON: each gives a value of its type and range, or an
InvalidArgument that names the field, the value (shortened) and what was expected.

JSON's true is no number here, and NaN is none either.
"""

import reprlib
from collections.abc import Callable
from math import isfinite
from typing import Any, NoReturn

from penstock_runtime.errors import InvalidArgument, Violation

Check = Callable[[str, Any], Any]
"""Takes the field's name and the value as it was sent."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 64
_SHORT.maxlong = 24
_SHORT.maxlevel = 2
_SHORT.maxlist = _SHORT.maxdict = 3


def refuse(field: str, value: object, expected: str) -> NoReturn:
    """InvalidArgument for a value."""
    problem = f"is {_SHORT.repr(value)}, expected {expected}"
    raise InvalidArgument(
        f"sampling parameter '{field}' {problem}", violations=(Violation(field, problem),)
    )


def refuse_field(field: str, problem: str) -> NoReturn:
    """InvalidArgument for a field whatever its value is; `problem` goes after its name."""
    raise InvalidArgument(
        f"sampling parameter '{field}' {problem}", violations=(Violation(field, problem),)
    )


def boolean(field: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        refuse(field, value, "true or false")
    return value


def integer(low: int, high: int) -> Check:
    """A whole number from `low` to `high`."""

    def check(field: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            refuse(field, value, f"an integer from {low} to {high}")
        return value

    return check


def number(low: float, high: float, *, over: bool = False) -> Check:
    """A number from `low` to `high`, where with `over` it may not be `low`; `high` infinite sets no
    upper bound.
    """
    least = f"over {low:g}" if over else f"from {low:g}"
    expected = f"a number {least}" + (f" to {high:g}" if isfinite(high) else "")

    def check(field: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            refuse(field, value, expected)
        try:
            read = float(value)
        except OverflowError:
            refuse(field, value, expected)
        if not isfinite(read) or not low <= read <= high or (over and read == low):
            refuse(field, value, expected)
        return read

    return check


def text(longest: int) -> Check:
    """A string that is not empty."""

    def check(field: str, value: object) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            refuse(field, value, f"a string of 1 to {longest} characters")
        return value

    return check


def strings(most: int, longest: int) -> Check:
    """A list of strings, or one; none of them empty."""
    one = text(longest)

    def check(field: str, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            return (one(field, value),)
        if not isinstance(value, list | tuple):
            refuse(field, value, "a string or a list of strings")
        if len(value) > most:
            refuse_field(field, f"has {len(value)} strings, expected at most {most}")
        return tuple(one(f"{field}[{place}]", each) for place, each in enumerate(value))

    return check


def token_ids(most: int, vocab_size: int | None) -> Check:
    """A list of token ids, each once."""
    one = token_id(vocab_size)

    def check(field: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            refuse(field, value, "a list of token ids")
        if len(value) > most:
            refuse_field(field, f"has {len(value)} token ids, expected at most {most}")
        return tuple(
            dict.fromkeys(one(f"{field}[{place}]", each) for place, each in enumerate(value))
        )

    return check


def token_id(vocab_size: int | None) -> Check:
    """A token's id, within the vocabulary where that is known."""
    return integer(0, (vocab_size if vocab_size is not None else 1 << 31) - 1)


def biases(most: int, vocab_size: int | None, bound: float) -> Check:
    """An object of numbers by token id, each brought into the bounds."""
    one, bias = token_id(vocab_size), number(float("-inf"), float("inf"))

    def check(field: str, value: object) -> dict[int, float]:
        if not isinstance(value, dict):
            refuse(field, value, "an object of numbers by token id")
        if len(value) > most:
            refuse_field(field, f"has {len(value)} entries, expected at most {most}")
        found: dict[int, float] = {}
        for key, each in value.items():
            name = f"{field}[{str(key)[:24]!r}]"
            found[one(name, _whole(key))] = max(-bound, min(bound, bias(name, each)))
        return found

    return check


def _whole(key: object) -> object:
    """The number that a key of a JSON object writes; the key itself where it writes none."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20:
        return int(key)
    return key


def only(*values: object, why: str) -> Check:
    """For what is known and not offered: nothing but values that ask for nothing."""

    def check(field: str, value: object) -> None:
        if not any(value == one and type(value) is type(one) for one in values):
            refuse_field(field, f"is not supported: {why}")

    return check
