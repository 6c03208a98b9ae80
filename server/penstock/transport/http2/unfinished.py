"""Messages that have begun and not ended: which of them come too slowly to be waited for.

A rule on bytes and the time alone; both are given.
"""

from collections.abc import Iterable
from typing import TypeVar

from penstock.transport.http2.stream import Stream

StreamT = TypeVar("StreamT", bound=Stream)

PACE_SHIFT = 8
"""What reserves memory that others wait for must fill its 256th part in a stall's time."""


class Unfinished:
    """The streams of one connection that are within a message, as they were seen last."""

    __slots__ = ("_progress", "_seen", "_stall_ns")

    def __init__(self, stall_ns: int, progress: int) -> None:
        self._stall_ns = stall_ns
        self._progress = progress
        # By the stream's id: bytes that were missing, and when.
        self._seen: dict[int, tuple[int, int]] = {}

    def late(self, streams: Iterable[StreamT], now_ns: int, *, scarce: bool) -> list[StreamT]:
        """Those that came no further than by so many bytes in a stall's time.

        Only streams that their peers may go on with are to be given. `scarce`: memory is, so that
        whoever has reserved much of it has to be faster.
        """
        seen: dict[int, tuple[int, int]] = {}
        late = []
        for stream in streams:
            assembler = stream.assembler
            if assembler is None or assembler.idle():
                continue
            missing, since_ns = assembler.missing, now_ns
            pace = self._progress
            if scarce:
                pace = max(pace, assembler.reserved >> PACE_SHIFT)
            before = self._seen.get(stream.id)
            if before is not None and 0 <= before[0] - missing < pace:
                missing, since_ns = before
            seen[stream.id] = missing, since_ns
            if now_ns - since_ns >= self._stall_ns:
                late.append(stream)
        self._seen = seen
        return late

    def __repr__(self) -> str:
        return f"<Unfinished {len(self._seen)} messages>"
