"""What waits to go out: frames made ready in `out`, and messages that wait for a window.

Streams that cannot send all at once take turns. Nothing here knows what comes in,
nor which side of the connection it is on.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from penstock.transport.http2.frames import (
    DEFAULT_WINDOW,
    END_STREAM,
    FRAME_HEADER,
    MIN_FRAME_SIZE,
    header_frames,
    rst_stream,
)
from penstock.transport.http2.guards import Guards
from penstock.transport.http2.history import History
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.settings import Settings
from penstock.transport.http2.stream import CLOSED, Buffer, Past, Stream

JOINED = 32 * 1024
"""Up to this size copying into one piece is cheaper than writing pieces."""

LARGEST_WRITE = 256 * 1024
"""Of one stream in one turn, as frames that the peer takes: others wait for it to pass."""

WIDE_WINDOW = 4 * LARGEST_WRITE
"""Of a connection: beyond it a turn may be of several frames although others wait."""

FRAME_COST = 100
"""What any frame counts for in `out` beside its bytes."""

EARNED_BY_PIECE = 4
MOST_EARNED = 100_000
"""Frames that bring nothing which each piece of our answers earns the peer, and how many it may
save: honest peers give credit, measure the way with PINGs, and reset what was answered already."""


class Outlet:
    """Where everything passes that a connection sends."""

    __slots__ = (
        "_control_pieces",
        "_control_room",
        "_earned",
        "_full",
        "_join_limit",
        "_largest",
        "_moved_bytes",
        "_moved_ns",
        "_out_room",
        "_ready",
        "_table_update",
        "_tiny_writes",
        "_waiting",
        "closing",
        "guards",
        "history",
        "limits",
        "out",
        "peer",
        "pieces",
        "rooms",
        "send_window",
        "streams",
        "tallies",
        "unsent",
    )

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.guards = Guards(limits)
        self.tallies = self.guards.tallies
        self.history = History(limits.remembered_streams)
        self.peer = Settings()
        self.streams: dict[int, Any] = {}
        self.out: list[Buffer] = []
        self.rooms: list[Any] = []
        self.send_window = DEFAULT_WINDOW
        self.closing = False
        self.unsent = 0
        """Bytes of messages that wait with their streams."""
        self._full = False
        # Of messages that had to wait: what went out of them, and when it was enough last.
        self._moved_bytes = self._moved_ns = 0
        self.pieces = 0
        """Of answers, handed out so far; frames that answer no call are not among them."""
        self._largest = MIN_FRAME_SIZE
        self._join_limit = MIN_FRAME_SIZE
        self._out_room = limits.output
        self._control_room = limits.control_output
        self._table_update = b""
        self._tiny_writes = 0
        self._earned = 0
        self._control_pieces = 0
        # Those whose window is open and that wait for their turn; all those that wait at all.
        self._ready: deque[Stream] = deque()
        self._waiting: dict[int, Stream] = {}

    def output(self) -> list[Buffer]:
        """What must be written now, forgotten here; more may be in `out` afterwards.

        While it is not called, messages stay with their streams.
        """
        out = self.out
        self.out = []
        self._out_room = self.limits.output
        self._control_room = self.limits.control_output
        pieces = len(out) - self._control_pieces
        self.pieces += pieces
        self._earned = min(self._earned + EARNED_BY_PIECE * pieces, MOST_EARNED)
        self._control_pieces = 0
        if self._ready:
            self._pump()
        return out

    def stalled(self, now_ns: int, longer_than_ns: int) -> list[Any]:
        """Streams whose unsent bytes did not move for so long, as seen by calls of this method.

        While others move, whose own window is open only waits for its turn.
        """
        if self._moved_bytes >= self.limits.stall_progress:
            self._moved_bytes, self._moved_ns = 0, now_ns
        moves = now_ns - self._moved_ns < longer_than_ns
        late = []
        for stream in self._waiting.values():
            if not stream.stalled_since_ns:
                stream.stalled_since_ns = now_ns
            elif now_ns - stream.stalled_since_ns < longer_than_ns:
                continue
            elif moves and stream.send_window > 0:
                # Its peer has all the time again from here, should it shut that window.
                stream.stalled_since_ns = now_ns
            else:
                late.append(stream)
        return late

    @property
    def stalled_since_ns(self) -> int:
        """The time from which the longest stall lasts; 0 when nothing is known to wait."""
        stamps = [stream.stalled_since_ns for stream in self._waiting.values()]
        return min((stamp for stamp in stamps if stamp), default=0)

    def _sent_end(self, stream: Stream) -> None:
        """END_STREAM went out on this stream: what that means is for each side to say."""
        raise NotImplementedError

    def _queue(self, stream: Stream, chunks: Sequence[Buffer], size: int) -> None:
        pending = stream.pending
        if pending is None:
            pending = stream.send_slowly()
            self._waiting[stream.id] = stream
        if size <= JOINED:
            chunks = (b"".join(chunks),)
        pending.extend(chunk for chunk in chunks if len(chunk))
        stream.unsent += size
        self.unsent += size
        if self.unsent > self.limits.connection_unsent and not self._full:
            self._full = True
            self._fullness_changed()
        self._wake(stream)
        self._pump()
        if stream.unsent > self.limits.high_water:
            stream.filled = True

    def _wake(self, stream: Stream) -> None:
        if not stream.queued and stream.send_window > 0:
            stream.queued = True
            self._ready.append(stream)

    def _pump(self) -> None:
        ready = self._ready
        while ready and self.send_window > 0 and self._out_room > 0:
            stream = ready.popleft()
            stream.queued = False
            # It may have been dropped, or its window cut, while it waited for its turn.
            if stream.pending is not None and stream.send_window > 0:
                self._put_turn(stream, stream.pending)
                if stream.pending is not None:
                    self._wake(stream)

    def _put_turn(self, stream: Stream, pending: deque[Buffer]) -> None:
        size = min(stream.unsent, stream.send_window, self.send_window, self._turn())
        stream.send_window -= size
        self.send_window -= size
        stream.unsent -= size
        self._moved_bytes += size
        self._sent(size)
        last = not stream.unsent
        flags = END_STREAM if last and stream.trailers == b"" else 0
        self._put_frames(stream.id, pending, size, flags)
        if last:
            self._emptied(stream)
            return
        self._moved(stream, size)
        if stream.filled and stream.unsent <= self.limits.low_water:
            stream.filled = False
            self.rooms.append(stream)

    def _turn(self) -> int:
        """How much a stream may send before the next one's turn, in bytes."""
        if not self._ready:
            return self.limits.lone_turn
        # Frames of 16 KiB cost most if each is a turn; where the window is narrow each is one, or
        # those behind would get nothing of it.
        narrow = self.send_window <= WIDE_WINDOW
        return min(self._largest, LARGEST_WRITE) if narrow else LARGEST_WRITE

    def _put_frames(self, stream_id: int, pending: deque[Buffer], total: int, flags: int) -> None:
        """So many of the bytes that wait as frames; `flags` are those of the last."""
        put, pack, largest = self.out.append, FRAME_HEADER.pack, self._largest
        self._out_room -= total + FRAME_COST * -(-total // largest)
        chunk, at = memoryview(b""), 0
        while total:
            left = size = min(largest, total)
            total -= size
            put(pack(size << 8, 0 if total else flags, stream_id))
            while left:
                if at == len(chunk):
                    chunk, at = memoryview(pending.popleft()), 0
                end = at + left
                # A slice ends where its view does.
                put(chunk[at:end])
                left, at = max(end - len(chunk), 0), min(end, len(chunk))
        if at < len(chunk):
            pending.appendleft(chunk[at:])

    def _moved(self, stream: Stream, size: int) -> None:
        if size < self.limits.tiny:
            self._tiny_writes += 1
        stream.moved += size
        if stream.moved >= self.limits.stall_progress:
            stream.moved = stream.stalled_since_ns = 0

    def _emptied(self, stream: Stream) -> None:
        stream.pending = None
        del self._waiting[stream.id]
        if stream.trailers is not None:
            if stream.trailers:
                self._put_block(stream.id, stream.trailers, END_STREAM)
            self._sent_end(stream)
        elif stream.filled:
            self.rooms.append(stream)

    def _drop(self, stream: Stream) -> None:
        """Forget a stream, with all that was to be sent or is half received."""
        stream.state = CLOSED
        self.streams.pop(stream.id, None)
        if stream.pending is not None:
            self._forget_unsent(stream)
        if stream.assembler is not None:
            stream.assembler.discard()
            stream.assembler = None

    def _forget_unsent(self, stream: Stream) -> None:
        stream.pending = None
        stream.trailers = None
        unsent, stream.unsent = stream.unsent, 0
        self._sent(unsent)
        self._waiting.pop(stream.id, None)

    def _sent(self, size: int) -> None:
        self.unsent -= size
        if self._full and self.unsent <= self.limits.connection_unsent >> 1:
            self._full = False
            self._fullness_changed()

    def _fullness_changed(self) -> None:
        """`_full`: so much waits to be sent that nothing more should be asked for."""

    def _put_block(self, stream_id: int, block: bytes, flags: int) -> None:
        if self._table_update:
            block = self._table_update + block
            self._table_update = b""
            self._join_limit = self._join_limit_of_peer()
        data = header_frames(stream_id, block, flags, self.peer.max_frame_size)
        self.out.append(data)
        self._out_room -= len(data) + FRAME_COST

    def _put_reset(self, stream_id: int, code: int) -> None:
        self.history.remember(stream_id, Past.RESET_BY_US)
        self._put_control(rst_stream(stream_id, code))

    def _put_control(self, data: bytes) -> None:
        # Only counted here: an application that resets streams must not be raised at. What the
        # peer provoked is judged once per read.
        self.out.append(data)
        self._control_pieces += 1
        self._control_room -= len(data) + FRAME_COST

    def _join_limit_of_peer(self) -> int:
        return min(JOINED, self.peer.max_frame_size)
