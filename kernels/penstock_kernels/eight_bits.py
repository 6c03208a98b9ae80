"""Numbers of eight bits as a cache stores them, in NumPy: integers, and floats of four bits of
exponent (e4m3, without infinities), which NumPy itself does not know.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

LIMITS = {"int8": 127.0, "float8_e4m3fn": 448.0}


def stored(x: AnyArray, dtype: Any) -> AnyArray:
    """float32 as this dtype: integers and floats to the nearest, ties to even."""
    if str(dtype) == "int8":
        return np.rint(x).astype(np.int8)
    return _e4m3_bits(x.astype(np.float32)).view(dtype)


def widened(q: AnyArray) -> AnyArray:
    """The numbers, as float32."""
    if str(q.dtype) == "int8":
        return q.astype(np.float32)
    found: AnyArray = _E4M3[q.view(np.uint8)]
    return found


def _e4m3_bits(x: AnyArray) -> AnyArray:
    whole = x.view(np.uint32)
    sign, size = whole >> 24 & 0x80, whole & 0x7FFFFFFF
    with np.errstate(over="ignore", invalid="ignore"):
        small = (size.view(np.float32) + np.float32(16384)).view(np.uint32) - 0x46800000
        large = (size - np.uint32(0x3C000000) + 0x7FFFF + (size >> 20 & 1)) >> 20
    bits = np.where(size < 0x3C800000, small, large)
    numbers: AnyArray = (np.where(size >= 0x43F00000, 0x7F, bits) | sign).astype(np.uint8)
    return numbers


def _e4m3_values() -> AnyArray:
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0**-9)
    values = np.where(bits & 0x7F == 0x7F, np.nan, size)
    return np.where(bits & 0x80, -values, values).astype(np.float32)


_E4M3 = _e4m3_values()
