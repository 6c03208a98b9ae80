"""Laws of the highest values: they are those that a whole sort would give, ties by their place."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from penstock_kernels.topk import top_k

WIDE = 70
NUMBERS = some.integer_dtypes() | some.unsigned_integer_dtypes() | some.floating_dtypes()
MATRICES: st.SearchStrategy[Any] = some.arrays(
    NUMBERS, st.tuples(st.integers(0, 4), st.integers(0, WIDE * 2))
)
FEW_VALUES: st.SearchStrategy[Any] = some.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(WIDE, WIDE * 2)),
    elements=st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan")]),
    fill=st.nothing(),
)


def one_by_one(row: Any, k: int) -> list[int]:
    """The reference of the reference: Python's own stable sort."""
    values = row.tolist()

    def place(index: int) -> tuple[bool, float]:
        value = values[index]
        return (True, 0.0) if value != value else (False, -value)

    return sorted(range(len(values)), key=place)[:k]


@given(MATRICES | FEW_VALUES, st.integers(1, WIDE * 3))
def test_the_highest_are_those_of_a_whole_sort(values: Any, k: int) -> None:
    """Highest first, ties by the lower column, NaN last, whatever the datatype and the width."""
    found = top_k(values, k)

    assert found.shape == (values.shape[0], min(k, values.shape[1]))
    assert found.tolist() == [one_by_one(row, k) for row in values]


@given(FEW_VALUES, st.integers(1, WIDE))
def test_fewer_are_the_beginning_of_more(values: Any, k: int) -> None:
    """Asking for one more changes nothing of what comes before it."""
    np.testing.assert_array_equal(top_k(values, k), top_k(values, k + 1)[:, :k])


@pytest.mark.parametrize("width", [3, WIDE])
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.uint64])
def test_the_ends_of_the_integers_keep_their_order(dtype: Any, width: int) -> None:
    """Neither the lowest of the signed nor the zero of the unsigned overflows."""
    limits = np.iinfo(dtype)
    values = np.full((1, width), limits.min, dtype)
    values[0, -1] = limits.max

    assert top_k(values, 2).tolist() == [[width - 1, 0]]


def test_the_values_stay_as_they_are() -> None:
    """Nothing is sorted in place: another request may look at the same array."""
    values = np.arange(WIDE * 2, dtype=np.float32).reshape(2, WIDE)
    before = values.copy()

    top_k(values, 3)

    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "k", "text"),
    [
        (np.zeros((1, 2)), 0, "k is 0, expected 1 or more"),
        (np.zeros((1, 2), np.bool_), 1, "values of dtype bool, expected integers or floats"),
        (np.zeros((1, 2), object), 1, "values of dtype object, expected integers or floats"),
    ],
)
def test_what_has_no_highest_is_refused(values: Any, k: int, text: str) -> None:
    """The number or the dtype is named."""
    with pytest.raises(ValueError, match=text):
        top_k(values, k)
