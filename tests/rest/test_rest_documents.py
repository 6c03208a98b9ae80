"""JSON of callers is read within bounds, and what is wrong with it is said."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.rest.documents import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_STRINGS,
    MAX_VALUES,
    expect_text,
    read_document,
    read_object,
    write_document,
)
from penstock_runtime.errors import InvalidArgument

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    """Every document survives."""
    assert read_document(write_document(value)) == value


@given(values)
def test_what_python_writes_is_read(value: Any) -> None:
    """Escapes and blanks make no difference."""
    assert read_document(json.dumps(value, indent=2).encode()) == value


def nested(depth: int) -> bytes:
    """An array of that depth."""
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON: Expecting property name"),
        (b"{} {}", "is not JSON: Extra data"),
        (b'{"a":1,"a":2}', "the name 'a' is twice in one object"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"[" + b"9" * 100_000 + b"]", "a number with too many digits"),
        (b'"\xff"', "is not UTF-8"),
        (nested(MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
        (b'["]]]]]",' * 60 + nested(MAX_DEPTH - 59) + b"]" * 60, "nested more than"),
        (b'["\\"]]",' * 60 + nested(MAX_DEPTH - 59) + b"]" * 60, "nested more than"),
        (nested(200_000), f"nested more than {MAX_DEPTH} deep"),
        (b'{"a":' * 200_000, f"nested more than {MAX_DEPTH} deep"),
        (b"[" + b"[]," * MAX_CONTAINERS, f"more than {MAX_CONTAINERS} arrays and objects"),
        (b"[" + b'"a",' * MAX_STRINGS + b'"a"]', f"more than {MAX_STRINGS} strings"),
        (b"[" + b"1," * MAX_VALUES + b"1]", f"more than {MAX_VALUES} values"),
    ],
)
def test_what_is_no_document_is_refused_in_words(data: bytes, part: str) -> None:
    """Bombs, bad numbers, names twice: InvalidArgument says which."""
    with pytest.raises(InvalidArgument) as refused:
        read_document(data)

    assert part in refused.value.message


@pytest.mark.parametrize(
    "data",
    [nested(MAX_DEPTH), json.dumps("[" * 500).encode(), json.dumps(['\\"[' * 200] * 2).encode()],
)
def test_what_only_looks_deep_is_read(data: bytes) -> None:
    """The bound itself, and brackets in strings."""
    assert read_document(data) == json.loads(data)


def test_nothing_is_an_empty_object_and_anything_else_is_none() -> None:
    """A body may be left out where every part of it may be."""
    assert read_object(b"") == {}
    with pytest.raises(InvalidArgument, match="is an array, expected an object"):
        read_object(b"[]")


def test_half_a_surrogate_pair_is_no_text() -> None:
    """JSON can say it, and no wire can."""
    with pytest.raises(InvalidArgument, match="half a surrogate pair"):
        expect_text(read_document(b'"\\ud800"'), "it")


def test_a_long_text_with_many_quotes_is_one_string() -> None:
    """Those that are escaped end none."""
    text = '"' * (MAX_STRINGS + 1)

    assert read_document(write_document(text)) == text
