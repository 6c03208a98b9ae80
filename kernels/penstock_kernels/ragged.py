"""Gathering many small arrays into one batch, and scattering the batch back: the NumPy references.

Rows are axis 0. Lengths are the size of one further axis. Every function takes and gives host
arrays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]


def gather_rows(parts: Sequence[AnyArray]) -> AnyArray:
    """[r_i, *dims] each -> [sum r_i, *dims]; a single part is passed on without a copy."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts)


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
    rows = sum(part.shape[0] for part in parts)
    shape = (rows, *first.shape[1:axis], length, *first.shape[axis + 1 :])
    out = np.full(shape, first.dtype.type(pad_value), dtype=first.dtype)
    at = 0
    for part in parts:
        cut = [slice(None)] * part.ndim
        cut[0], cut[axis] = slice(at, at + part.shape[0]), slice(0, part.shape[axis])
        out[tuple(cut)] = part
        at += part.shape[0]
    return out


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
