"""Laws of the little language of launch plans: it says numbers, and nothing else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.backends.kernel.expressions import Misspelt, parse, parse_list

SHAPES = {"X": (4, 6), "Y": (3,), "batch": (7, 2)}
NAMES = tuple(SHAPES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256", 256),
        ("X.size", 24),
        ("X.rows * X.shape[1]", 24),
        ("1 + 2 * 3 - 4", 3),
        ("(1 + 2) * 3", 9),
        ("2 - 3 - 4", -5),
        ("17 // 5 + 17 % 5", 5),
        ("-X.rows + 5", 1),
        ("ceil_div(X.size, 5)", 5),
        ("ceil_div(25, 5)", 5),
        ("min(X.size, max(Y.size, 9))", 9),
        (" batch.shape[ 1 ]\n", 2),
    ],
)
def test_an_expression_has_the_value_that_it_has_on_paper(text: str, value: int) -> None:
    """Precedence, order and names are those of arithmetic."""
    assert parse(text, NAMES)(SHAPES) == value


def test_sizes_are_separated_by_commas() -> None:
    """Commas inside of parentheses belong to those."""
    found = parse_list("min(1, 2), Y.size, 3", NAMES)

    assert [value(SHAPES) for value in found] == [1, 3, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 'its end' where a number"),
        ("1 +", "has 'its end' where a number"),
        ("1 2", "has '2' where the end"),
        ("(1", r"has 'its end' where '\)'"),
        ("X", r"has 'its end' where '\.'"),
        ("X.shape", r"where '\['"),
        ("X.shape[Y.size]", "expected a number"),
        ("X.shape[-1]", "expected a number"),
        ("X.__class__", r"expected \.size, \.rows or \.shape"),
        ("Z.size", "has the name 'Z', expected one of X, Y, batch, min, max, ceil_div"),
        ("__import__('os')", "cannot be read at"),
        ("print(1, 2)", "has the name 'print'"),
        ("1.5", r"has '\.' where the end"),
        ("0x10", "cannot be read"),
        ("9" * 19, "cannot be read"),
        ("2 ** 3", r"has '\*' where a number"),
        ("(" * 40 + "1" + ")" * 40, "nested deeper than 32"),
        ("-" * 40 + "1", "nested deeper than 32"),
        ("1+" * 300 + "1", "has 601 characters, expected at most 512"),
        ("lambda: 1", "cannot be read at ': 1'"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_went_wrong(text: str, said: str) -> None:
    """When the model is loaded."""
    with pytest.raises(Misspelt, match=said):
        parse(text, NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 // (X.rows - 4)", "divides by 0"),
        ("1 % 0", "divides by 0"),
        ("ceil_div(1, 0)", "divides by 0"),
        ("Y.shape[1]", "asks for dimension 1 of 'Y', which has 1"),
        ("999999999999999999 * 999999999999999999", "that no 64 bits hold"),
    ],
)
def test_what_has_no_value_for_these_shapes_is_said_then(text: str, said: str) -> None:
    """Reading it is no reason to refuse it."""
    value = parse(text, NAMES)

    with pytest.raises(Misspelt, match=said):
        value(SHAPES)


@given(st.text("XYZ.size[]()+-*/%,0123 abc_'\"\n", max_size=40))
def test_any_text_is_a_number_or_misspelt(text: str) -> None:
    """Nothing else ever comes of it."""
    with contextlib.suppress(Misspelt):
        assert isinstance(parse(text, NAMES)(SHAPES), int)
