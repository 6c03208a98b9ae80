"""What llguidance is given for a form that an answer must have: a grammar in its own terms.

A form that it cannot have is an InvalidArgument of one line; whether the grammar is a good one is
for the compiler to say.
"""

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from llguidance import LLMatcher, StructTag
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.sampling_params import Structured, StructuredKind

MAX_GRAMMAR = 64 << 10
# Its translation to Lark takes time by the square of its length, half a second for so much.
MAX_EBNF = 16 << 10
MAX_TAGS = 256
# Models that put white space into JSON must not be able to go on with it for ever.
_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n\r\t]{1,16}"}
_ANY_OBJECT = '{"type": "object"}'


def grammar_source(structured: Structured, special_tokens: Collection[str] = ()) -> str:
    """The grammar of a form. `special_tokens` are texts that a structural tag may begin with as
    one token.
    """
    if structured.kind is StructuredKind.STRUCTURAL_TAG:
        return _structural_tag(structured.text, special_tokens)
    return _SOURCES[structured.kind](structured.text)


def one_line(message: object) -> str:
    """A message of the compiler without line breaks, and not long."""
    return " ".join(str(message).replace("<non-verbose/>", "").split())[:240]


def _schema(text: str) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(text, defaults=_JSON_OPTIONS)
    except ValueError as error:
        raise InvalidArgument(f"json: {one_line(error)}") from error


def _object(_text: str) -> str:
    return _schema(_ANY_OBJECT)


def _regex(text: str) -> str:
    return LLMatcher.grammar_from_regex(text)


def _choice(text: str) -> str:
    choices = json.loads(text)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(one) for one in choices))


def _grammar(text: str) -> str:
    lark = is_lark_syntax(text)
    most = MAX_GRAMMAR if lark else MAX_EBNF
    if len(text) > most:
        raise InvalidArgument(f"grammar: it has {len(text)} characters, expected at most {most}")
    try:
        return LLMatcher.grammar_from_lark(text if lark else gbnf_to_lark(text))
    except Exception as error:  # its reader of EBNF raises whatever comes
        raise InvalidArgument(f"grammar: it is no Lark and no EBNF: {one_line(error)}") from error


_SOURCES: Mapping[StructuredKind, Callable[[str], str]] = {
    StructuredKind.JSON: _schema,
    StructuredKind.JSON_OBJECT: _object,
    StructuredKind.REGEX: _regex,
    StructuredKind.CHOICE: _choice,
    StructuredKind.GRAMMAR: _grammar,
}


def _structural_tag(text: str, special_tokens: Collection[str]) -> str:
    """vLLM's `structures` (begin, schema, end) and `triggers`; the `format` of newer ones says more
    than llguidance can do.
    """
    document = json.loads(text)
    structures, triggers = document.get("structures"), document.get("triggers")
    lists = isinstance(structures, list) and isinstance(triggers, list)
    if "format" in document or not lists or not structures or not triggers:
        raise InvalidArgument(
            "structural_tag: expected structures and triggers; a format is not supported"
        )
    if len(structures) > MAX_TAGS:
        raise InvalidArgument(
            f"structural_tag: it has {len(structures)} structures, expected at most {MAX_TAGS}"
        )
    try:
        tags = [_tag(one, triggers) for one in structures]
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(
            "structural_tag: each structure needs begin, schema and end, each trigger is a string"
        ) from error
    # A trigger such as <tool_call> is one token only in a vocabulary that has it.
    marks = [tag.trigger for tag in tags if tag.trigger[:1] + tag.trigger[-1:] == "<>"]
    return StructTag.to_grammar(
        tags, assume_special=bool(marks) and all(one in special_tokens for one in marks)
    )


def _tag(structure: Mapping[str, Any], triggers: list[str]) -> StructTag:
    begin, schema = structure["begin"], structure.get("schema", {})
    trigger = next((one for one in triggers if one and begin.startswith(one)), None)
    if trigger is None:
        raise InvalidArgument(f"structural_tag: no trigger begins {begin[:64]!r}")
    if not isinstance(schema, dict):
        raise InvalidArgument("structural_tag: a schema is not an object")
    return StructTag(trigger=trigger, begin=begin, grammar=schema, end=structure["end"])
