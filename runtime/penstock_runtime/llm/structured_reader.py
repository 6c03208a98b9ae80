"""Reads what form an answer must have: vLLM's names, its older `guided_*`, OpenAI's
`response_format`, TGI's `grammar` and TensorRT-LLM's guide, all to one `Structured`.

It checks types and sizes; whether a grammar is a good one shows when it is compiled.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from penstock_runtime.llm.sampling_checks import boolean, refuse, refuse_field, strings
from penstock_runtime.llm.sampling_params import Structured, StructuredKind

MAX_CHARACTERS = 256 << 10
MAX_CHOICES = 1024
MAX_DEPTH = 64

_ALIASES = {
    "guided_json": "json",
    "guided_json_object": "json_object",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_KINDS = tuple(kind.value for kind in StructuredKind)
_ENVELOPES = ("structured_outputs", "response_format", "guided_decoding_guide_type")
STRUCTURED_NAMES = (*_KINDS, *_ALIASES, *_ENVELOPES, "guided_decoding_guide")

# A string without an end is one too, or each quote in it would be tried as a beginning.
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
# What vLLM's object says of how a form is kept to, which is nobody's choice here.
_MANNERS = ("disable_fallback", "disable_any_whitespace", "disable_additional_properties")


def read_structured(document: Mapping[str, Any]) -> Structured | None:
    """The form that a request asks for, if it does; InvalidArgument for two of them."""
    found: list[tuple[str, Structured]] = []
    for name in STRUCTURED_NAMES:
        value = document.get(name)
        if value is not None and name != "guided_decoding_guide":
            form = _read(name, value, document)
            if form is not None:
                found.append((name, form))
    if len(found) > 1:
        names = " and ".join(f"'{name}'" for name, _ in found)
        refuse_field(found[1][0], f"is one form of the answer too many: {names} are given")
    return found[0][1] if found else None


def _read(name: str, value: object, document: Mapping[str, Any]) -> Structured | None:
    if name == "structured_outputs":
        return _structured_outputs(name, value)
    if name == "response_format":
        return _response_format(name, value)
    if name == "guided_decoding_guide_type":
        return _guide(name, value, document.get("guided_decoding_guide"))
    if name == "grammar" and isinstance(value, Mapping):
        return _tgi_grammar(name, value)
    return _one(_ALIASES.get(name, name), name, value)


def _one(kind: str, field: str, value: object) -> Structured | None:
    return _READERS[kind](field, value)


def _json(field: str, value: object) -> Structured:
    """A schema as an object, or as the text of one."""
    text = value if isinstance(value, str) else _dump(field, value)
    schema = _parse(field, text)
    if not isinstance(schema, dict | bool):
        refuse(field, value, "a JSON schema: an object, true or false")
    return Structured(StructuredKind.JSON, text)


def _json_object(field: str, value: object) -> Structured | None:
    return Structured(StructuredKind.JSON_OBJECT) if boolean(field, value) else None


def _regex(field: str, value: object) -> Structured:
    return Structured(StructuredKind.REGEX, _text(field, value, "a regular expression"))


def _grammar(field: str, value: object) -> Structured:
    return Structured(StructuredKind.GRAMMAR, _text(field, value, "a grammar (EBNF or Lark)"))


def _choice(field: str, value: object) -> Structured:
    if isinstance(value, str):
        refuse(field, value, "a list of strings")
    choices = strings(MAX_CHOICES, MAX_CHARACTERS)(field, value)
    if not choices:
        refuse(field, value, "a list of at least one string")
    text = json.dumps(choices, ensure_ascii=False)
    return Structured(StructuredKind.CHOICE, _text(field, text, "choices"))


def _structural_tag(field: str, value: object) -> Structured:
    text = value if isinstance(value, str) else _dump(field, value)
    if not isinstance(_parse(field, text), dict):
        refuse(field, value, "an object with structures and triggers")
    return Structured(StructuredKind.STRUCTURAL_TAG, text)


_READERS: dict[str, Callable[[str, object], Structured | None]] = {
    "json": _json,
    "json_object": _json_object,
    "regex": _regex,
    "grammar": _grammar,
    "choice": _choice,
    "structural_tag": _structural_tag,
}


def _structured_outputs(field: str, value: object) -> Structured | None:
    if not isinstance(value, Mapping):
        refuse(field, value, f"an object with one of {', '.join(_KINDS)}")
    for name, each in value.items():
        if name in _MANNERS:
            boolean(f"{field}.{name}", each)
        elif name not in _KINDS and each is not None:
            refuse_field(f"{field}.{str(name)[:64]}", f"is unknown, expected {', '.join(_KINDS)}")
    given = [name for name in _KINDS if value.get(name) is not None]
    if len(given) != 1:
        refuse_field(field, f"has {given or 'nothing'}, expected one of {', '.join(_KINDS)}")
    return _one(given[0], f"{field}.{given[0]}", value[given[0]])


def _response_format(field: str, value: object) -> Structured | None:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str):
        refuse(field, value, "an object with a type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Structured(StructuredKind.JSON_OBJECT)
    if kind == "structural_tag":
        return _structural_tag(field, dict(value))
    if kind != "json_schema":
        refuse(f"{field}.type", kind, "text, json_object, json_schema or structural_tag")
    inner = value.get("json_schema")
    schema = inner.get("schema", inner.get("json_schema")) if isinstance(inner, Mapping) else None
    if schema is None:
        refuse_field(f"{field}.json_schema.schema", "is missing")
    return _json(f"{field}.json_schema.schema", schema)


def _tgi_grammar(field: str, value: Mapping[str, Any]) -> Structured | None:
    kind, inner = value.get("type"), value.get("value")
    if kind in ("json", "json_object"):
        return _json(f"{field}.value", inner)
    if kind == "regex":
        return _regex(f"{field}.value", inner)
    if kind != "json_schema" or not isinstance(inner, Mapping):
        refuse(f"{field}.type", kind, "json, regex or json_schema")
    return _json(f"{field}.value", inner.get("schema", dict(inner)))


def _guide(field: str, value: object, guide: object) -> Structured | None:
    kinds = {
        "json": "json_object",
        "json_schema": "json",
        "regex": "regex",
        "ebnf_grammar": "grammar",
        "structural_tag": "structural_tag",
    }
    if not isinstance(value, str) or value not in kinds:
        refuse(field, value, ", ".join(kinds))
    return _one(kinds[value], "guided_decoding_guide", True if value == "json" else guide)


def _text(field: str, value: object, expected: str) -> str:
    if not isinstance(value, str) or not value:
        refuse(field, value, expected)
    if len(value) > MAX_CHARACTERS:
        refuse_field(field, f"has {len(value)} characters, expected at most {MAX_CHARACTERS}")
    return value


def _dump(field: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        refuse(field, value, "JSON")


def _parse(field: str, text: str) -> object:
    """JSON of a bounded size and depth."""
    _text(field, text, "JSON")
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += (match[0] in "[{") - (match[0] in "]}")
        if depth > MAX_DEPTH:
            refuse_field(field, f"nests deeper than {MAX_DEPTH} levels")
    try:
        document: object = json.loads(
            text, parse_constant=lambda name: refuse_field(field, f"has {name}")
        )
    except ValueError as error:
        refuse_field(field, f"is no JSON: {error}")
    return document
