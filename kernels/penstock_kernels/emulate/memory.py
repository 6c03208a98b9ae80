"""Memory that a kernel cannot leave unnoticed: copies of arrays between guard pages."""

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]

_PAGE = mmap.PAGESIZE
_NONE, _READ, _READ_WRITE = 0, 1, 3
# What cudaMalloc promises is more; what a view into a slab keeps is this.
_ALIGNMENT = 16
# No number that anyone computes, in the few bytes between the array's end and the page.
_CANARY = 0xA5

_libc = ctypes.CDLL(None, use_errno=True)


class MemoryRuleError(RuntimeError):
    """A kernel wrote where it may not."""


class Guarded:
    """A copy of an array that ends at an unreachable page; unless `writable`, writing faults too.

    What lies between the array and its guards (behind it, up to 15 bytes that alignment leaves) is
    checked by `close`.
    """

    def __init__(self, array: AnyArray, *, writable: bool) -> None:
        self._source = array
        self._writable = writable
        content = np.ascontiguousarray(array)
        self._size = content.nbytes
        self._used = max(1, -(-self._size // _PAGE)) * _PAGE
        self._map = mmap.mmap(-1, self._used + 2 * _PAGE)
        self._first = np.frombuffer(self._map, np.uint8)
        self._base = int(self._first.ctypes.data)
        self._offset = _PAGE + (self._used - self._size) // _ALIGNMENT * _ALIGNMENT
        self._first[_PAGE : _PAGE + self._used] = _CANARY
        self._bytes()[:] = content.reshape(-1).view(np.uint8)
        self._protect(_NONE, 0, _PAGE)
        self._protect(_NONE, _PAGE + self._used, _PAGE)
        if not writable:
            self._protect(_READ, _PAGE, self._used)

    @property
    def address(self) -> int:
        """Of the first byte."""
        return self._base + self._offset

    def close(self) -> None:
        """Give the memory back, and write what the kernel wrote into the array it was made of.

        Raises MemoryRuleError when bytes between the array and a guard were written.
        """
        self._protect(_READ_WRITE, 0, len(self._map))
        before = self._first[_PAGE : self._offset]
        behind = self._first[self._offset + self._size : _PAGE + self._used]
        spoiled = bool((before != _CANARY).any() or (behind != _CANARY).any())
        if self._writable:
            content = self._bytes().view(self._source.dtype).reshape(self._source.shape)
            self._source[...] = content
            del content
        del before, behind, self._first
        self._map.close()
        if spoiled:
            raise MemoryRuleError(f"written beside an array of {self._size} bytes")

    def _bytes(self) -> npt.NDArray[np.uint8]:
        return self._first[self._offset : self._offset + self._size]

    def _protect(self, protection: int, offset: int, size: int) -> None:
        at = ctypes.c_void_p(self._base + offset)
        if _libc.mprotect(at, ctypes.c_size_t(size), protection):
            raise OSError(ctypes.get_errno(), "mprotect of a guard page failed")
