"""The memory that the server shares with one process: it makes all of it, both ways, and what it
reads it copies first, so that what was checked stays as it is.
"""

import threading
from itertools import count
from typing import Any

import numpy as np

from penstock_runtime.isolation.frames import BrokenProtocol, Channel, Frame, Kind
from penstock_runtime.isolation.segments import (
    Arena,
    Block,
    Segment,
    close_quietly,
    create_memory,
    segment_size,
)
from penstock_runtime.isolation.tensors import as_array, unpack
from penstock_runtime.isolation.values import count_of, list_of

IN, OUT = "in", "out"
MOST_FREED = 1 << 16
MOST_SEGMENTS = 256


class ServerMemory:
    """`arena` is for what the process reads; `limit` are the bytes each way."""

    def __init__(self, channel: Channel, limit: int) -> None:
        self._channel = channel
        self._limit = limit
        # Taking the next of these needs no lock.
        self._numbers = count(1)
        self._lock = threading.Lock()
        self.arena = Arena(self._grow)
        self._out: dict[int, Segment] = {}

    # -- what the process reads --------------------------------------------------------------------

    def _grow(self, need: int, held: int) -> tuple[int, Segment] | None:
        """Nobody uses a segment that the process was not told of."""
        size = segment_size(need)
        made = self._make(size) if held + size <= self._limit else None
        if made is None:
            return None
        number, fd, segment = made
        try:
            self._channel.send(Kind.SEGMENT, number, {"way": IN, "size": size}, fd=fd)
        finally:
            close_quietly(fd)
        return number, segment

    def freed(self, blocks: Any) -> None:
        """The process has no use for these blocks any more. BrokenProtocol unless they are its."""
        for item in list_of(blocks, MOST_FREED):
            pair = list_of(item, 2)
            if len(pair) != 2 or not self.arena.give(count_of(pair[0]), count_of(pair[1])):
                raise BrokenProtocol("a block is given back that was not lent")

    def trim(self) -> None:
        """Give back what was not needed for a while."""
        for number in self.arena.trim():
            self._channel.send(Kind.DROP, number)

    # -- what the process writes -------------------------------------------------------------------

    def need(self, size: int) -> None:
        """Make a segment for what the process has to say, or say that there is none."""
        whole = segment_size(size) if size <= self._limit else 0
        with self._lock:
            held = sum(segment.size for segment in self._out.values())
            fits = 0 < whole <= self._limit - held and len(self._out) < MOST_SEGMENTS
            made = self._make(whole) if fits else None
            if made is not None:
                self._out[made[0]] = made[2]
        if made is None:
            self._channel.send(Kind.NO_SEGMENT)
            return
        number, fd, _ = made
        try:
            self._channel.send(Kind.SEGMENT, number, {"way": OUT, "size": whole}, fd=fd)
        finally:
            close_quietly(fd)

    def dropped(self, number: int) -> None:
        """The process has no use for a segment any more."""
        with self._lock:
            self._out.pop(number, None)

    def arrays(self, frame: Frame) -> tuple[dict[str, Any], Block | None]:
        """The arrays of a message, in memory of their own, and the block to be released for it."""
        told = frame.note.get("tensors", [])
        place = frame.note.get("block")
        if place is None:
            return unpack(told, frame.data), None
        numbers = list_of(place, 3)
        if len(numbers) != 3:
            raise BrokenProtocol("a block is not told of by three numbers")
        block = Block(*map(count_of, numbers))
        with self._lock:
            segment = self._out.get(block.segment)
        part = segment.part(block.start, block.size) if segment is not None else None
        if part is None:
            raise BrokenProtocol("a block does not lie in the memory that there is")
        return unpack(told, np.array(as_array(part))), block

    def _make(self, size: int) -> tuple[int, int, Segment] | None:
        """A new segment, its number and its descriptor; None if the system has no memory for it."""
        try:
            fd = create_memory(size)
        except OSError:
            return None
        try:
            segment = Segment(fd, size)
        except (OSError, ValueError):
            close_quietly(fd)
            return None
        return next(self._numbers), fd, segment

    @property
    def size(self) -> int:
        """Bytes that are shared, both ways."""
        with self._lock:
            out = sum(segment.size for segment in self._out.values())
        return self.arena.size + out
