"""Laws of ragged batches, held against a plain loop: what is gathered flat comes back as it was."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_kernels.ragged import (
    AnyArray,
    accumulated_counts,
    element_counts,
    gather_cast,
    gather_flat,
    gather_padded,
    gather_rows,
    item_shapes,
    max_count_shape,
    scatter_flat,
    scatter_rows,
)

DTYPES = st.sampled_from(["f4", "f2", "i8", "u1", "?", "O"])
SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.integers(1, 4)), min_size=1)


def parts_of(shapes: list[tuple[int, int, int]], dtype: str, *, strided: bool) -> list[AnyArray]:
    """Arrays of these shapes, all elements different where the dtype has room."""
    made: list[AnyArray] = []
    for number, shape in enumerate(shapes):
        wide = (shape[0], shape[1], shape[2] * 2)
        values = np.arange(np.prod(wide)).reshape(wide) + 100 * number
        array = values.astype(str).astype(object) if dtype == "O" else values.astype(dtype)
        part = array[:, :, ::2]
        made.append(part if strided else np.ascontiguousarray(part))
    return made


@given(SHAPES, DTYPES, st.booleans())
def test_a_flat_batch_is_every_part_row_by_row(
    shapes: list[tuple[int, int, int]], dtype: str, strided: bool
) -> None:
    """Whatever the dtype and the memory, one element after the other, as a loop would copy them."""
    parts = parts_of(shapes, dtype, strided=strided)
    looped = [item for part in parts for item in part.reshape(-1).tolist()]

    flat = gather_flat(parts)

    assert flat.tolist() == looped
    assert flat.dtype == parts[0].dtype
    assert flat.ndim == 1


@given(SHAPES, DTYPES)
def test_scattering_gives_back_what_was_gathered(
    shapes: list[tuple[int, int, int]], dtype: str
) -> None:
    """Gather, then scatter by the counts: every part is there again, as a view."""
    parts = parts_of(shapes, dtype, strided=False)
    flat = gather_flat(parts)

    cut = scatter_flat(flat, element_counts(parts, np.int64).tolist())

    assert [piece.tolist() for piece in cut] == [part.reshape(-1).tolist() for part in parts]
    assert all(np.shares_memory(piece, flat) for piece in cut if piece.size)


@given(SHAPES, st.sampled_from([np.int32, np.int64, np.float32]))
def test_counts_and_shapes_are_those_of_a_loop(
    shapes: list[tuple[int, int, int]], dtype: type[np.generic]
) -> None:
    """Counts and ends are one for each request, shapes one for each row."""
    parts = parts_of(shapes, "f4", strided=False)
    counts = [rows * length * width for rows, length, width in shapes]
    items = [[length, width] for rows, length, width in shapes for _ in range(rows)]

    assert element_counts(parts, dtype).tolist() == counts
    assert accumulated_counts(parts, dtype).tolist() == list(accumulate(counts))
    assert accumulated_counts(parts, dtype, with_zero=True).tolist() == [0, *accumulate(counts)]
    assert max_count_shape(parts, dtype).tolist() == [0] * max(counts)
    assert item_shapes(parts, dtype).tolist() == items
    assert item_shapes(parts, dtype, flat=True).tolist() == [n for item in items for n in item]
    assert {f(parts, dtype).dtype for f in (element_counts, item_shapes)} == {np.dtype(dtype)}


def test_the_example_of_the_protocol() -> None:
    """Two rows of [3, 1] and one of [2, 2], as Triton's documentation has it."""
    parts = [np.zeros((2, 3, 1), np.float32), np.zeros((1, 2, 2), np.float32)]

    assert item_shapes(parts, np.int32).tolist() == [[3, 1], [3, 1], [2, 2]]
    assert item_shapes(parts, np.int32, flat=True).tolist() == [3, 1, 3, 1, 2, 2]
    assert accumulated_counts(parts, np.float32).tolist() == [6.0, 10.0]


def test_a_single_part_is_not_copied_and_a_flat_batch_may_be_written() -> None:
    """One request's memory is passed on; what was copied belongs to the model."""
    part = np.ones((1, 3), np.float32)

    gather_flat([part, part])[0] = 5

    assert np.shares_memory(gather_flat([part]), part)
    assert part.tolist() == [[1, 1, 1]]


def test_items_without_dimensions_have_empty_shapes() -> None:
    """A row that is one number has a shape of no dimensions."""
    assert item_shapes([np.zeros(2), np.zeros(1)], np.int32).shape == (3, 0)


def test_a_batch_of_another_size_is_not_cut() -> None:
    """Too many elements or too few say both numbers."""
    with pytest.raises(ValueError, match="5 elements cannot be cut into 6"):
        scatter_flat(np.zeros(5), [2, 4])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=5))
def test_padding_puts_every_row_where_a_loop_would(shapes: list[tuple[int, int]]) -> None:
    """Whether parts have one row, none or several, and whatever their order in memory."""
    parts = [np.arange(r * n * 2, dtype=np.int32).reshape(r, n, 2) + 1 for r, n in shapes]

    found = gather_padded(parts, 5, 1, -7)
    turned = gather_padded([np.asfortranarray(part) for part in parts], 5, 1, -7)

    rows = [row for part in parts for row in part]
    expected = np.full((len(rows), 5, 2), -7, np.int32)
    for to, row in zip(expected, rows, strict=True):
        to[: len(row)] = row
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(turned, expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_joined_rows_are_cut_into_what_they_were(counts: list[int]) -> None:
    """Whether all have one row or not; parts may be written, and share the batch's memory."""
    parts = [np.full((count, 3), n, np.float32) for n, count in enumerate(counts)]

    batch = gather_rows(parts)
    cut = scatter_rows(batch, counts)

    assert [part.tolist() for part in cut] == [part.tolist() for part in parts]
    assert batch.flags.writeable
    assert all(np.shares_memory(part, batch) for part in cut if part.size)


def test_a_cast_on_the_way_is_that_of_numpy() -> None:
    """One pass; too large for the new type is infinite, and nobody is warned."""
    parts = [np.array([[1.5, 1e30]], np.float32), np.array([[-2, 7]], np.float32)]

    found = gather_cast(parts, np.float16)

    assert found.dtype == np.float16
    assert found.tolist() == [[1.5, np.inf], [-2, 7]]
