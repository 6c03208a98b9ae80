"""Gathering many small arrays into one batch, and scattering the batch back: the NumPy references.

Rows are axis 0. Lengths are the size of one further axis. Ragged parts have rows and any dimensions
beside them. Every function takes and gives host arrays.
"""

import contextlib
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

# Bytes of a part.
_SMALL = 64 << 10


def gather_rows(parts: Sequence[Any]) -> AnyArray:
    """[r_i, *dims] each, of one dtype -> [sum r_i, *dims]; a single part is passed on without a
    copy.
    """
    first: AnyArray = parts[0]
    if len(parts) == 1:
        return first
    size = first.nbytes
    # Of many small parts `concatenate` looks at each for six times as long as it takes to copy it.
    if 0 < size <= _SMALL and not first.dtype.hasobject:
        with contextlib.suppress(TypeError, ValueError, BufferError):
            joined = np.frombuffer(bytearray().join(parts), first.dtype)
            return joined.reshape((-1, *first.shape[1:]))
    return np.concatenate(parts)


def gather_cast(parts: Sequence[AnyArray], dtype: npt.DTypeLike) -> AnyArray:
    """[r_i, *dims] each -> [sum r_i, *dims] of another dtype, in one pass; too large for it is
    infinite.
    """
    rows = sum(part.shape[0] for part in parts)
    out = np.empty((rows, *parts[0].shape[1:]), dtype)
    at = 0
    with np.errstate(over="ignore"):
        for part in parts:
            np.copyto(out[at : at + part.shape[0]], part, casting="unsafe")
            at += part.shape[0]
    return out


def gather_padded(
    parts: Sequence[AnyArray], length: int, axis: int = 1, pad_value: float = 0.0
) -> AnyArray:
    """[r_i, ..., n_i, ...] each -> [sum r_i, ..., length, ...], padded behind along `axis`.

    Raises ValueError when a part is longer than `length`.
    """
    longest = max(part.shape[axis] for part in parts)
    if longest > length:
        raise ValueError(f"a part of length {longest} does not fit into {length}")
    if len(parts) == 1 and longest == length:
        return parts[0]
    first = parts[0]
    counts = [part.shape[0] for part in parts]
    rows = sum(counts)
    shape = (rows, *first.shape[1:axis], length, *first.shape[axis + 1 :])
    if axis == 1 and counts.count(1) == rows == len(parts) and not first.dtype.hasobject:
        with contextlib.suppress(TypeError, ValueError, BufferError):
            return _joined_rows(parts, shape, first.dtype.type(pad_value))
    out = np.full(shape, first.dtype.type(pad_value), dtype=first.dtype)
    at = 0
    for part in parts:
        cut = [slice(None)] * part.ndim
        cut[0], cut[axis] = slice(at, at + part.shape[0]), slice(0, part.shape[axis])
        out[tuple(cut)] = part
        at += part.shape[0]
    return out


def _joined_rows(parts: Sequence[Any], shape: tuple[int, ...], pad: Any) -> AnyArray:
    """One row each, padded: bytes and padding in turns, by one join instead of a copy for each.

    Raises what `join` does of parts that are in no order.
    """
    size = prod(shape[1:]) * pad.dtype.itemsize
    padding = np.full(prod(shape[1:]), pad).view(np.uint8).data
    pieces: list[Any] = []
    for part in parts:
        pieces += (part, padding[: size - part.nbytes])
    return np.frombuffer(bytearray().join(pieces), pad.dtype).reshape(shape)


def length_mask(
    lengths: Sequence[int], rows: Sequence[int], length: int, dtype: npt.DTypeLike
) -> AnyArray:
    """[sum rows, length], 1 where a row's position is below its own length."""
    own = np.repeat(np.asarray(lengths, dtype=np.int64), np.asarray(rows, dtype=np.int64))
    return (np.arange(length, dtype=np.int64)[None, :] < own[:, None]).astype(dtype)


def scatter_rows(batch: Any, rows: Sequence[int]) -> list[Any]:
    """[sum rows, *dims] -> views of [rows_i, *dims]; works for any array type that slices."""
    if len(rows) == 1:
        return [batch]
    if type(batch) is np.ndarray and len(rows) == batch.shape[0] and rows.count(1) == len(rows):
        # One row each, as is usual: NumPy cuts them itself.
        return list(batch[:, None])
    parts, at = [], 0
    for count in rows:
        parts.append(batch[at : at + count])
        at += count
    return parts


def cut_length(part: Any, length: int, axis: int = 1) -> Any:
    """[r, ..., n, ...] -> the view [r, ..., length, ...]: what padding added is gone."""
    cut = [slice(None)] * len(part.shape)
    cut[axis] = slice(0, length)
    return part[tuple(cut)]


# -- ragged: parts of any shape, joined flat -------------------------------------------------------


def gather_flat(parts: Sequence[Any]) -> AnyArray:
    """Parts of any shape and one dtype -> [sum of their elements], row-major, one after the other.

    A single part is passed on without a copy, if its memory is in order.
    """
    first: AnyArray = parts[0]
    if len(parts) == 1:
        return first.reshape(-1)
    # Pointers to objects may not be copied behind the interpreter's back.
    if first.dtype.hasobject:
        return np.concatenate(parts, axis=None)
    try:
        # One copy takes half the time of `concatenate`, and a fifth of it where parts are small.
        return np.frombuffer(bytearray().join(parts), first.dtype)
    except TypeError:
        return np.concatenate(parts, axis=None)


def scatter_flat(batch: Any, sizes: Sequence[int]) -> list[Any]:
    """Any shape of sum(sizes) elements -> a view of [sizes_i] each; ValueError for another number
    of elements.
    """
    flat = batch.reshape(-1)
    total = sum(sizes)
    if flat.shape[0] != total:
        raise ValueError(f"{flat.shape[0]} elements cannot be cut into {total}")
    return scatter_rows(flat, sizes)


def element_counts(parts: Sequence[Any], dtype: npt.DTypeLike) -> AnyArray:
    """[number of parts]: the elements of each."""
    return np.array([part.size for part in parts], dtype)


def accumulated_counts(
    parts: Sequence[Any], dtype: npt.DTypeLike, *, with_zero: bool = False
) -> AnyArray:
    """[number of parts]: where each ends in the flat batch; [parts + 1] with a zero in front:
    where each begins too.
    """
    ends = accumulate((part.size for part in parts), initial=0 if with_zero else None)
    return np.array(list(ends), dtype)


def max_count_shape(parts: Sequence[Any], dtype: npt.DTypeLike) -> AnyArray:
    """[elements of the largest part]: its shape is what it says, its content is zero."""
    return np.zeros(max(part.size for part in parts), dtype)


def item_shapes(parts: Sequence[Any], dtype: npt.DTypeLike, *, flat: bool = False) -> AnyArray:
    """[sum rows, dims]: the shape of each row's item, without the batch; one dimension if flat."""
    shapes = np.array([part.shape[1:] for part in parts], dtype)
    rows = [part.shape[0] for part in parts]
    if any(count != 1 for count in rows):
        shapes = np.repeat(shapes, rows, axis=0)
    return shapes.reshape(-1) if flat else shapes
