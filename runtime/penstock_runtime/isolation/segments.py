"""Memory that two processes see: anonymous, sealed in its size, and gone with the last of them.

No name of it lies anywhere, so that nothing is left however a process ends.
"""

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from penstock_runtime.isolation.freelist import FreeList

SMALLEST = 1 << 20
# A segment that nobody needed for so long is given back.
IDLE_S = 10.0


class Block(NamedTuple):
    """A range of a segment."""

    segment: int
    start: int
    size: int


class Segment:
    """One mapping. Views of `view` keep it; it is unmapped with the last."""

    def __init__(self, fd: int, size: int, *, writable: bool = True) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.size = size
        self.view = memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED, protection))

    def part(self, start: int, size: int) -> memoryview | None:
        """The bytes of a range; None if it does not lie inside."""
        if not (0 <= start <= self.size and 0 <= size <= self.size - start):
            return None
        return self.view[start : start + size]


def create_memory(size: int) -> int:
    """The descriptor of so many bytes that are there (OSError if they are not) and stay so many:
    nobody who has it can make whoever reads it fail.
    """
    fd = os.memfd_create("penstock", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, size)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except BaseException:
        os.close(fd)
        raise
    return fd


def segment_size(need: int) -> int:
    """How large a segment for so many bytes is: a power of two."""
    return max(SMALLEST, 1 << max(need - 1, 1).bit_length())


class Arena:
    """The segments of one direction, on the side that fills them.

    `more` is asked for a segment of at least so many bytes when there is no room, and told how many
    there are already: it gives its number and itself, or None. Thread-safe; blocks are given back
    in any order.
    """

    def __init__(
        self,
        more: Callable[[int, int], "tuple[int, Segment] | None"],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._more = more
        self._clock = clock
        self._lock = threading.Lock()
        self._growing = threading.Lock()
        self._segments: dict[int, Segment] = {}
        self._free: dict[int, FreeList] = {}
        self._idle_since: dict[int, float] = {}

    def take(self, size: int) -> tuple[Block, memoryview] | None:
        """A block of so many bytes, and its memory; None where there is no room."""
        with self._lock:
            found = self._take(size)
        return found if found is not None else self._take_more(size)

    def _take_more(self, size: int) -> tuple[Block, memoryview] | None:
        # Blocks can be given back meanwhile: it may take that for a segment to come.
        with self._growing:
            with self._lock:
                found, held = self._take(size), self._size()
            if found is not None:
                return found
            made = self._more(size, held)
            if made is None:
                return None
            with self._lock:
                self._segments[made[0]] = made[1]
                self._free[made[0]] = FreeList(made[1].size)
                return self._take(size)

    def _take(self, size: int) -> tuple[Block, memoryview] | None:
        for number, free in self._free.items():
            start = free.take(size)
            if start is not None:
                self._idle_since.pop(number, None)
                part = self._segments[number].part(start, size)
                assert part is not None
                return Block(number, start, size), part
        return None

    def give(self, segment: int, start: int) -> bool:
        """A block is free again; False if there was none."""
        with self._lock:
            free = self._free.get(segment)
            if free is None or not free.give(start):
                return False
            if free.empty:
                self._idle_since[segment] = self._clock()
            return True

    @property
    def has_idle(self) -> bool:
        """Whether `trim` may have something to do."""
        return bool(self._idle_since)

    def trim(self) -> list[int]:
        """Let go of segments that nobody needed for `IDLE_S`; their numbers."""
        now = self._clock()
        with self._lock:
            gone = [n for n, since in self._idle_since.items() if now - since >= IDLE_S]
            for number in gone:
                del self._idle_since[number], self._segments[number], self._free[number]
        return gone

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return self._size()

    def _size(self) -> int:
        return sum(segment.size for segment in self._segments.values())

    @property
    def used(self) -> int:
        """Bytes in blocks that were not given back."""
        with self._lock:
            return sum(free.used for free in self._free.values())

    def __repr__(self) -> str:
        return f"<Arena {self.used} of {self.size} bytes>"


def close_quietly(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    with suppress(OSError):
        os.close(fd)
