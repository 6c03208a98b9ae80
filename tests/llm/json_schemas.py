"""Random JSON schemas whose documents end, and what says whether a document is one of theirs."""

import re
from collections.abc import Callable
from random import Random
from typing import Any

WORDS = ["a", "b c", "é", "日本", "🙂", 'q"', "back\\slash", "", "n\nl"]


Kind = Callable[[Random, int], dict[str, Any]]


def random_schema(random: Random, depth: int = 3) -> dict[str, Any]:
    """Any of the kinds that are common in tools and forms."""
    kinds: list[Kind] = [_integer, _number, _string, _pattern, _enum, _const, _simple]
    if depth > 0:
        kinds += [_object, _object, _array, _any_of]
    schema: dict[str, Any] = random.choice(kinds)(random, depth - 1)
    return schema


def _integer(random: Random, _depth: int) -> dict[str, Any]:
    low = random.randint(-500, 500)
    return {"type": "integer", "minimum": low, "maximum": low + random.randint(0, 1000)}


def _number(random: Random, _depth: int) -> dict[str, Any]:
    low = random.randint(-50, 50)
    return {"type": "number", "minimum": low, "exclusiveMaximum": low + random.randint(1, 99)}


def _string(random: Random, _depth: int) -> dict[str, Any]:
    low = random.randint(0, 3)
    return {"type": "string", "minLength": low, "maxLength": low + random.randint(0, 8)}


def _pattern(random: Random, _depth: int) -> dict[str, Any]:
    pattern = random.choice(
        [r"^[a-c]{2,4}$", r"^\d{3}-\d{2}$", r"^(yes|no|é)$", r"^[A-Z][a-z]{0,5}$"]
    )
    return {"type": "string", "pattern": pattern}


def _enum(random: Random, _depth: int) -> dict[str, Any]:
    return {"enum": random.sample([*WORDS, 1, -2.5, True, None], random.randint(1, 4))}


def _const(random: Random, _depth: int) -> dict[str, Any]:
    return {"const": random.choice([*WORDS, 7, None, False])}


def _simple(random: Random, _depth: int) -> dict[str, Any]:
    return {"type": random.choice(["boolean", "null"])}


def _object(random: Random, depth: int) -> dict[str, Any]:
    names = random.sample(WORDS, random.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(random, depth) for name in names},
        "required": random.sample(names, random.randint(0, len(names))),
        "additionalProperties": False,
    }


def _array(random: Random, depth: int) -> dict[str, Any]:
    low = random.randint(0, 2)
    return {
        "type": "array",
        "items": random_schema(random, depth),
        "minItems": low,
        "maxItems": low + random.randint(0, 2),
    }


def _any_of(random: Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(random, depth) for _ in range(random.randint(1, 3))]}


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a document is of a schema, of the keywords above."""
    if "anyOf" in schema:
        return any(valid(value, one) for one in schema["anyOf"])
    if "enum" in schema:
        return any(_same(value, one) for one in schema["enum"])
    if "const" in schema:
        return _same(value, schema["const"])
    return _TYPES[schema["type"]](value, schema)


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _is_number(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(
        schema["minimum"] <= value <= schema.get("maximum", value)
        and value < schema.get("exclusiveMaximum", value + 1)
    )


def _is_string(value: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(value, str):
        return False
    if "pattern" in schema:
        return re.search(schema["pattern"].replace(r"\d", "[0-9]"), value) is not None
    return bool(schema["minLength"] <= len(value) <= schema["maxLength"])


def _is_array(value: Any, schema: dict[str, Any]) -> bool:
    return (
        isinstance(value, list)
        and schema["minItems"] <= len(value) <= schema["maxItems"]
        and all(valid(one, schema["items"]) for one in value)
    )


def _is_object(value: Any, schema: dict[str, Any]) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= schema["properties"].keys()
        and value.keys() >= set(schema["required"])
        and all(valid(one, schema["properties"][name]) for name, one in value.items())
    )


_TYPES = {
    "integer": lambda value, schema: isinstance(value, int) and _is_number(value, schema),
    "number": _is_number,
    "string": _is_string,
    "boolean": lambda value, _schema: isinstance(value, bool),
    "null": lambda value, _schema: value is None,
    "array": _is_array,
    "object": _is_object,
}
