"""The shared memory as the process of a model sees it: it reads what the server wrote, without a
copy, and tells it when nothing here refers to a block any more.
"""

import threading
import weakref
from collections import deque
from functools import partial
from typing import Any

from penstock_runtime.isolation.frames import Channel, Frame, Kind
from penstock_runtime.isolation.segments import Arena, Segment, close_quietly
from penstock_runtime.isolation.tensors import as_array, unpack

# How long an answer waits for a segment; then it goes through the socket.
PATIENCE_S = 10.0


class ChildMemory:
    """`arena` is for what the server reads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._in: dict[int, Segment] = {}
        self._offers: deque[tuple[int, Segment] | None] = deque()
        self._offered = threading.Semaphore(0)
        self.arena = Arena(self._more)
        # Filled by finalisers, which may come anywhere, under any lock.
        self._freed: deque[tuple[int, int]] = deque()

    def _more(self, need: int, _held: int) -> tuple[int, Segment] | None:
        """One is asked for at a time."""
        self._channel.send(Kind.NEED, 0, {"size": need})
        if not self._offered.acquire(timeout=PATIENCE_S):
            return None
        return self._offers.popleft()

    def take(self, frame: Frame) -> None:
        """A segment came, goes, or will not come."""
        if frame.kind is Kind.DROP:
            self._in.pop(frame.number, None)
        elif frame.kind is Kind.NO_SEGMENT:
            self._offer(None)
        else:
            outgoing = frame.note["way"] == "out"
            try:
                segment = Segment(frame.fd, frame.note["size"], writable=outgoing)
            finally:
                close_quietly(frame.fd)
            if outgoing:
                self._offer((frame.number, segment))
            else:
                self._in[frame.number] = segment

    def _offer(self, made: tuple[int, Segment] | None) -> None:
        self._offers.append(made)
        self._offered.release()

    def released(self, frame: Frame) -> None:
        """The server has taken what is in a block."""
        self.arena.give(*frame.note["block"])

    def trim(self) -> None:
        """Give segments back that were not needed for a while."""
        for number in self.arena.trim():
            self._channel.send(Kind.DROPPED, number)

    def arrays(self, frame: Frame) -> dict[str, Any]:
        """The arrays of a message, as views that cannot be written to."""
        place = frame.note.get("block")
        if place is None:
            whole = as_array(frame.data)
        else:
            segment, start, size = place
            part = self._in[segment].part(start, size)
            assert part is not None
            whole = as_array(part)
            # All views of numbers keep this one array; strings are copies.
            weakref.finalize(whole, partial(self._freed.append, (segment, start))).atexit = False
        whole.flags.writeable = False
        return unpack(frame.note.get("tensors", []), whole)

    def take_freed(self) -> list[tuple[int, int]]:
        """The blocks that nothing refers to any more, each told once."""
        freed = []
        while self._freed:
            freed.append(self._freed.popleft())
        return freed
