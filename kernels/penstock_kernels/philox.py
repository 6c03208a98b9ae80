"""Random numbers of kernels that draw, in NumPy: Philox 4x32-10 (Salmon et al. 2011), a function of
a seed, a step, a token and what the number is for.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


class Stream(IntEnum):
    """What a number is for: numbers of different streams are independent."""

    TOKEN = 0
    TAIL = 1
    ACCEPT = 2
    RESIDUAL = 3


def philox(tokens: AnyArray, step: int, stream: int, seed: int) -> tuple[AnyArray, ...]:
    """The four words of 32 bits (in uint64) for each token."""
    c0 = tokens.astype(np.uint64)
    c1, c2 = (np.full_like(c0, step >> by & 0xFFFFFFFF) for by in (0, 32))
    c3 = np.full_like(c0, stream)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = second >> _HALF ^ c1 ^ np.uint64(k0), first >> _HALF ^ c3 ^ np.uint64(k1)
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform64(step: int, stream: int, seed: int) -> float:
    """One number of 52 bits between 0 and 1, neither of them."""
    high, low, *_ = (int(word[0]) for word in philox(np.zeros(1, np.int64), step, stream, seed))
    return min(((high << 20 | low >> 12) + 0.5) * 2.0**-52, 1 - 2.0**-53)
