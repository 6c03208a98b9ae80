"""One stream, and what each frame means in each of its states (RFC 9113, 5.1): rules as a table.

A stream that is not in the connection's table is idle or closed; how it closed decides what a late
frame of the peer means.
"""

from collections import deque
from enum import Enum
from typing import Any

from penstock.transport.http2.frames import (
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    ErrorCode,
)
from penstock.transport.http2.messages import Assembler

OPEN = 0
HALF_CLOSED_REMOTE = 1
"""The peer sends nothing more."""
HALF_CLOSED_LOCAL = 2
"""We send nothing more."""
CLOSED = 3
"""Both: `HALF_CLOSED_REMOTE | HALF_CLOSED_LOCAL`."""

Buffer = bytes | memoryview

STATE_NAMES = ("open", "half-closed (remote)", "half-closed (local)", "closed")


class Past(Enum):
    """What became of a stream that is not open."""

    IDLE = "idle"
    """Its id was not used yet."""
    SKIPPED = "skipped"
    """A higher id was used first: it can never be opened."""
    FINISHED = "finished"
    """Both sides ended it with END_STREAM."""
    RESET_BY_PEER = "reset by the peer"
    RESET_BY_US = "reset by us"
    FORGOTTEN = "forgotten"
    """Closed so long ago that nobody remembers how."""


class Verdict(Enum):
    """What a frame deserves on a stream that is not open."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    """Only what all streams share is kept in step: header table and connection window."""
    RESET = "stream error"
    CLOSE = "connection error"


_FRAMES = (DATA, HEADERS, PRIORITY, RST_STREAM, WINDOW_UPDATE)
_ALL_IGNORED = dict.fromkeys(_FRAMES, (Verdict.IGNORE, ErrorCode.NO_ERROR))
_ACCEPT = (Verdict.ACCEPT, ErrorCode.NO_ERROR)
_IGNORE = (Verdict.IGNORE, ErrorCode.NO_ERROR)
_BROKEN = (Verdict.CLOSE, ErrorCode.PROTOCOL_ERROR)
_LATE = (Verdict.CLOSE, ErrorCode.STREAM_CLOSED)
_DEAF = (Verdict.RESET, ErrorCode.STREAM_CLOSED)

NOT_OPEN: dict[Past, dict[int, tuple[Verdict, ErrorCode]]] = {
    Past.IDLE: {
        DATA: _BROKEN,
        HEADERS: _ACCEPT,
        PRIORITY: _IGNORE,
        RST_STREAM: _BROKEN,
        WINDOW_UPDATE: _BROKEN,
    },
    Past.SKIPPED: {
        DATA: _LATE,
        HEADERS: _BROKEN,
        PRIORITY: _IGNORE,
        RST_STREAM: _IGNORE,
        WINDOW_UPDATE: _IGNORE,
    },
    Past.FINISHED: {
        DATA: _LATE,
        HEADERS: _LATE,
        PRIORITY: _IGNORE,
        RST_STREAM: _IGNORE,
        WINDOW_UPDATE: _IGNORE,
    },
    Past.RESET_BY_PEER: {
        DATA: _DEAF,
        HEADERS: _DEAF,
        PRIORITY: _IGNORE,
        RST_STREAM: _IGNORE,
        WINDOW_UPDATE: _IGNORE,
    },
    Past.RESET_BY_US: _ALL_IGNORED,
    Past.FORGOTTEN: _ALL_IGNORED,
}
"""What a peer's frame means on a stream that is not open.

CONTINUATION belongs to its HEADERS; PUSH_PROMISE is refused before anyone looks at its stream.
"""

OPEN_STATES: dict[int, dict[int, tuple[Verdict, ErrorCode]]] = {
    OPEN: dict.fromkeys(_FRAMES, _ACCEPT),
    HALF_CLOSED_LOCAL: dict.fromkeys(_FRAMES, _ACCEPT),
    HALF_CLOSED_REMOTE: {
        DATA: _DEAF,
        HEADERS: _DEAF,
        PRIORITY: _ACCEPT,
        RST_STREAM: _ACCEPT,
        WINDOW_UPDATE: _ACCEPT,
    },
}
"""What a peer's frame means on a stream that is open in one direction at least."""


class Stream:
    """One call's stream. An adapter's call is a subclass with the same constructor.

    `send_window` is what may be sent on it now, negative after a cut by SETTINGS; `unsent` the
    bytes that wait in `pending`; `trailers` the header block that follows them, empty where the
    last DATA frame ends the stream. `recv_window` is what the peer may send, `held` the bytes of
    messages that the application has not consumed (`waiting` is their share of what the connection
    may hold); `expected` what is left of a content-length; `opened_at` where its `Opened` stands in
    a read's events. Most streams live for one message each way, so what only the others need is set
    by `receive_slowly` and `send_slowly`.
    """

    __slots__ = (
        "assembler",
        "connection",
        "expected",
        "filled",
        "head",
        "head_sent",
        "held",
        "id",
        "moved",
        "opened_at",
        "pending",
        "queued",
        "recv_window",
        "send_window",
        "stalled_since_ns",
        "state",
        "trailers",
        "unsent",
        "waiting",
    )

    def __init__(self, connection: Any, stream_id: int, head: Any, send_window: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.head = head
        self.send_window = send_window
        self.state = OPEN
        self.head_sent = False
        self.unsent = 0
        self.opened_at = 0
        self.expected: int | None = None
        self.assembler: Assembler | None = None
        self.pending: deque[Buffer] | None = None
        self.trailers: bytes | None = None

    def receive_slowly(self, recv_window: int, assembler: Assembler) -> Assembler:
        """Prepare for more than one whole message: the window is kept from here on."""
        self.recv_window = recv_window
        self.held = self.waiting = 0
        self.assembler = assembler
        return assembler

    def send_slowly(self) -> "deque[Buffer]":
        """Prepare for messages that have to wait; where they wait."""
        pending: deque[Buffer] = deque()
        self.pending = pending
        self.queued = self.filled = False
        self.moved = self.stalled_since_ns = 0
        return pending

    @property
    def closed(self) -> bool:
        """Whether nothing may be sent or comes any more."""
        return self.state == CLOSED

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {STATE_NAMES[self.state]}>"
