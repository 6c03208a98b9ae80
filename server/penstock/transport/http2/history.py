"""Remembers, in bounded memory, what became of streams that are not open any more."""

from collections import deque

from penstock.transport.http2.stream import Past

MAX_GAPS = 32


class History:
    """Of the ids up to `last`, most finished as they should; only the others are kept.

    When too many are kept, the oldest are forgotten, and every id up to theirs with them: what
    comes late on a forgotten stream is ignored rather than held against the peer.
    """

    __slots__ = ("_capacity", "_forgotten", "_gaps", "_past", "last")

    def __init__(self, capacity: int) -> None:
        self.last = 0
        self._capacity = capacity
        self._forgotten = 0
        self._gaps: deque[range] = deque(maxlen=MAX_GAPS)
        self._past: dict[int, Past] = {}

    def skip_to(self, stream_id: int) -> None:
        """The peer uses this id next; those between the last one and it can never be opened."""
        if stream_id > self.last + 2:
            self._gaps.append(range(self.last + 1, stream_id))
        self.last = stream_id

    def remember(self, stream_id: int, past: Past) -> None:
        """This stream ended in another way than by END_STREAM of both sides."""
        known = self._past
        known[stream_id] = past
        if len(known) > self._capacity:
            oldest = next(iter(known))
            del known[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def past(self, stream_id: int) -> Past:
        """What became of this stream, which must not be open."""
        if stream_id > self.last:
            return Past.IDLE
        known = self._past.get(stream_id)
        if known is not None:
            return known
        if any(stream_id in gap for gap in self._gaps):
            return Past.SKIPPED
        return Past.FORGOTTEN if stream_id <= self._forgotten else Past.FINISHED

    def __repr__(self) -> str:
        return f"<History up to {self.last}, {len(self._past)} kept>"
