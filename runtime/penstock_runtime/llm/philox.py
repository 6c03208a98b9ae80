"""Random numbers that are a function of what they are for: a seed, a position, a token.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011). A counter of (token, position, stream) under a key of the seed, as in the kernel `sample`,
which draws the same numbers. It knows nothing of batches: that is why they do not matter.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_Words = tuple[Array, Array, Array, Array]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """What a number is for: numbers of different streams are independent."""

    TOKEN = 0
    TAIL = 1
    ACCEPT = 2
    RESIDUAL = 3


def philox(counter: _Words, key: tuple[Array, Array]) -> _Words:
    """The four words (32 bits each, held in uint64) of each counter under its key; shapes are
    broadcast.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = second >> _HALF ^ c1 ^ k0, first >> _HALF ^ c3 ^ k1
        c1, c3 = second & _LOW, first & _LOW
        k0, k1 = k0 + _WEYL[0] & _LOW, k1 + _WEYL[1] & _LOW
    return c0, c1, c2, c3


def gumbel(tokens: Array, seeds: Sequence[int], positions: Sequence[int]) -> Array:
    """Standard Gumbel noise, float32, for each of a row's tokens [rows, tokens], as `sample` adds
    it: the first word's upper 23 bits as a number between 0 and 1, neither of them.
    """
    first, *_ = _words(tokens.astype(np.uint64), seeds, positions, Stream.TOKEN)
    uniform = ((first >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)
    noise: Array = -np.log(-np.log(uniform))
    return noise


def uniforms(seeds: Sequence[int], positions: Sequence[int], stream: Stream) -> tuple[Array, Array]:
    """Two independent numbers for each row, float64, between 0 and 1 and neither of them."""
    c0, c1, c2, c3 = _words(np.zeros((1, 1), np.uint64), seeds, positions, stream)
    return _unit(c0, c1), _unit(c2, c3)


def _words(tokens: Array, seeds: Sequence[int], positions: Sequence[int], stream: Stream) -> _Words:
    step, step_high = _halves(positions)
    return philox((tokens, step, step_high, np.full_like(step, stream)), _halves(seeds))


def _halves(numbers: Sequence[int]) -> tuple[Array, Array]:
    whole = np.array([number & 0xFFFFFFFFFFFFFFFF for number in numbers], np.uint64)[:, None]
    return whole & _LOW, whole >> _HALF


def _unit(high: Array, low: Array) -> Array:
    bits = (high << np.uint64(20) | low >> np.uint64(12)).astype(np.float64)
    unit: Array = ((bits + 0.5) * 2.0**-52)[:, 0]
    # The greatest number rounds up to 1.
    return np.minimum(unit, 1 - 2.0**-53)
