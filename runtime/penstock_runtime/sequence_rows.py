"""Rows of states, whatever kind of array they are: joined, copied and made without leaving the
device they are on.

torch is not imported here: who has a tensor has imported it.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock_kernels.ragged import gather_rows
from penstock_runtime.tensor import to_host


def join_rows(parts: Sequence[Any]) -> Any:
    """[r_i, *dims] each -> [sum r_i, *dims]; on the host if they are of different kinds."""
    if all(_is_torch(part) for part in parts):
        return sys.modules["torch"].cat(list(parts))
    return gather_rows([to_host(part) for part in parts])


def copied(array: Any) -> Any:
    """An array of its own, where this one is."""
    return array.clone() if _is_torch(array) else array.copy()


def blank_like(part: Any) -> Any:
    """Zeros, or empty texts, of the same shape and kind."""
    if _is_torch(part):
        return part.new_zeros(part.shape)
    host = to_host(part)
    if host.dtype == object:
        return np.full(host.shape, b"", dtype=object)
    return np.zeros(host.shape, host.dtype)


def frozen(array: Any) -> Any:
    """The array for somebody who must not write to it, as far as its kind can prevent that."""
    if not isinstance(array, np.ndarray):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def _is_torch(array: Any) -> bool:
    return hasattr(array, "new_zeros")
