"""The highest values of each row and where they are: the NumPy reference.

Takes and gives host arrays; of what the values mean it knows nothing (no softmax is applied).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]

# Rows as short as this are sorted whole and all at once, which costs less than a step for each.
_SHORT = 64


def top_k(values: AnyArray, k: int) -> Indices:
    """[r, n] integers or floats -> [r, min(k, n)], the columns of each row's highest values.

    The highest first; of equal values the lower column first; NaN after everything else. Raises
    ValueError when k is less than 1 or the values are no numbers that can be ordered.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    rows, width = values.shape
    keys = _descending(values)
    if k >= width or width <= _SHORT:
        return np.argsort(keys, axis=1, kind="stable")[:, :k]
    found = np.empty((rows, k), np.intp)
    for row, key in zip(found, keys, strict=True):
        row[:] = _lowest(key, k)
    return found


def _descending(values: AnyArray) -> AnyArray:
    """Keys whose ascending order is the descending one of the values."""
    kind = values.dtype.kind
    if kind == "f":
        keys: AnyArray = np.negative(values)
    elif kind in "iu":
        # Not the negation: that overflows for the lowest of the signed, and for all unsigned ones.
        keys = np.invert(values)
    else:
        raise ValueError(f"values of dtype {values.dtype}, expected integers or floats")
    return keys


def _lowest(keys: AnyArray, k: int) -> Indices:
    """[n] -> [k], where the lowest keys are, k < n."""
    bound = np.partition(keys, k - 1)[k - 1]
    # Everything equal to the bound is kept, so that the sort and not the partition, which knows no
    # order among equals, decides who of them is in. Said by `not greater`, which NaN is not either.
    candidates = np.flatnonzero(~(keys > bound))
    return candidates[np.argsort(keys[candidates], kind="stable")[:k]]
