"""What the frames mean that carry no header block and no message, for either side.

Nothing here reads bytes off the connection: whole frames come in, already cut.
"""

from typing import Any

from penstock.transport.http2.events import (
    Event,
    GoAway,
    PingAcked,
    Pinged,
    Reset,
    SettingsChanged,
)
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.flow import overflows
from penstock.transport.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    GOAWAY,
    MAX_STREAM_ID,
    PING,
    PING_SIZE,
    PRIORITY,
    PRIORITY_SIZE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ErrorCode,
    goaway,
    ping,
    unpack_word,
)
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.sending import Sender
from penstock.transport.http2.settings import ENTRY_SIZE
from penstock.transport.http2.stream import CLOSED, NOT_OPEN, Past, Verdict

_SIZES = {RST_STREAM: 4, PING: PING_SIZE, WINDOW_UPDATE: 4}
_OF_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))
_OF_STREAM = frozenset((PRIORITY, RST_STREAM))
_NAMES = {
    PRIORITY: "PRIORITY",
    RST_STREAM: "RST_STREAM",
    SETTINGS: "SETTINGS",
    PING: "PING",
    GOAWAY: "GOAWAY",
    WINDOW_UPDATE: "WINDOW_UPDATE",
}
LONGEST_GOAWAY = 16 * 1024
LONGEST_PRIORITY = 64
"""A PRIORITY frame of another size than 5 is wrong, but one that is this long is not waited for."""


class Control(Sender):
    """A sender that understands SETTINGS, PING, RST_STREAM, WINDOW_UPDATE, PRIORITY and GOAWAY."""

    __slots__ = (
        "_events",
        "_now_ns",
        "_settings_acked",
        "_stream_window",
        "error",
        "established",
    )

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.error: ConnectionFault | None = None
        self.established = False
        self._events: list[Event] = []
        self._now_ns = 0
        # Until the peer has acknowledged ours, it may hold itself to the window it knows.
        self._settings_acked = False
        self._stream_window = max(limits.stream_window, DEFAULT_WINDOW)

    def ping(self, data: bytes) -> None:
        """Send a PING with these 8 bytes; `PingAcked` brings them back."""
        self._put_control(ping(data))

    def close(self, code: int = ErrorCode.NO_ERROR, text: str = "") -> None:
        """Say GOAWAY and be done: open streams end without events; write `output`, then close."""
        if not self.closing:
            self.closing = True
            self.out.append(goaway(self._last_seen(), code, text.encode()[:256]))
            self._drop_all()

    def lost(self) -> list[Event]:
        """The socket is gone: what that means for the streams that were open."""
        self.closing = True
        return [Reset(stream, ErrorCode.CANCEL) for stream in self._drop_all()]

    def _drop_all(self) -> list[Any]:
        dropped = list(self.streams.values())
        for stream in dropped:
            self._drop(stream)
        return dropped

    def _last_seen(self) -> int:
        """The highest id of the peer's streams that may have had an effect here."""
        return self.history.last

    def _control_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Obey one frame, which is whole and of a right size. ConnectionFault if it must not be."""
        if kind == WINDOW_UPDATE:
            self._window_update(stream_id, payload)
        elif kind == RST_STREAM:
            self._reset_by_peer(stream_id, unpack_word(payload, 0))
        elif kind == PING:
            self._pinged(flags, payload)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == GOAWAY:
            last_id = unpack_word(payload, 0) & MAX_STREAM_ID
            self._goaway(unpack_word(payload, 4), last_id, payload[8:])
        elif kind == PRIORITY:
            self._priority(stream_id, len(payload))

    def _check_control(self, kind: int, size: int, stream_id: int) -> None:
        """Judge a frame by its header alone, before its payload is waited for."""
        name = _NAMES.get(kind, "")
        if kind == PUSH_PROMISE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which is not allowed")
        if kind in _OF_CONNECTION and stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{name} on stream {stream_id}")
        if kind in _OF_STREAM and not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{name} on stream 0")
        if size != _SIZES.get(kind, size):
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, f"{name} of {size} bytes, expected {_SIZES[kind]}"
            )
        if kind == SETTINGS and size > self.limits.settings_per_frame * ENTRY_SIZE:
            raise self.guards.enough("settings_per_frame")
        if kind == PRIORITY and size > LONGEST_PRIORITY:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {size} bytes")
        if kind == GOAWAY and not 8 <= size <= LONGEST_GOAWAY:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {size} bytes")

    def _priority(self, stream_id: int, size: int) -> None:
        self.guards.spend("ignored_frames", self._now_ns)
        if size == PRIORITY_SIZE:
            return
        if stream_id not in self.streams:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {size} bytes")
        # The one wrong size that costs only its stream (RFC 9113, 6.3).
        self._stream_fault(stream_id, ErrorCode.FRAME_SIZE_ERROR)

    def _window_update(self, stream_id: int, payload: bytes) -> None:
        self._spend("window_updates")
        increment = unpack_word(payload, 0) & MAX_STREAM_ID
        if stream_id:
            self._stream_window_update(stream_id, increment)
        elif not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0 bytes")
        elif overflows(self.send_window, increment):
            self.tallies["window_overflows"] += 1
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                f"window of the connection is {self.send_window}, {increment} more is too much",
            )
        else:
            self.send_window += increment
        self._pump()
        while self._tiny_writes:
            self._tiny_writes -= 1
            self.guards.spend("tiny_writes", self._now_ns)

    def _stream_window_update(self, stream_id: int, increment: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._judge(WINDOW_UPDATE, stream_id)
        elif not increment:
            self._stream_fault(stream_id, ErrorCode.PROTOCOL_ERROR)
        elif overflows(stream.send_window, increment):
            self._stream_fault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "window_overflows")
        else:
            stream.send_window += increment
            if stream.pending is not None:
                self._wake(stream)

    def _spend(self, name: str) -> None:
        # What honest peers send in answer to what we send costs nothing; beyond that, a token.
        if self._earned:
            self._earned -= 1
        else:
            self.guards.spend(name, self._now_ns)

    def _reset_by_peer(self, stream_id: int, code: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._judge(RST_STREAM, stream_id)
            return
        self._drop(stream)
        self.history.remember(stream_id, Past.RESET_BY_PEER)
        self._events.append(Reset(stream, code))
        self.guards.spend("resets", self._now_ns)

    def _pinged(self, flags: int, data: bytes) -> None:
        if flags & ACK:
            self._ping_acked(data)
            return
        self._spend("pings")
        self._put_control(ping(data, ack=True))
        self._events.append(Pinged(data))

    def _ping_acked(self, data: bytes) -> None:
        self._events.append(PingAcked(data))

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._acked(len(payload))
            return
        self.guards.spend("settings", self._now_ns)
        before = self.peer.initial_window_size
        table_size = self.peer.header_table_size
        self.peer.apply(payload)
        self._check_settings()
        self._move_windows(self.peer.initial_window_size - before)
        if self.peer.header_table_size < table_size and not self._table_update:
            # We keep no table, but the peer must hear that before our next header block.
            self._table_update = b"\x20"
        self._largest = min(self.peer.max_frame_size, self.limits.lone_turn)
        self._join_limit = -1 if self._table_update else self._join_limit_of_peer()
        self._put_control(SETTINGS_ACK)
        self._events.append(SettingsChanged())
        self._pump()

    def _check_settings(self) -> None:
        """Refuse settings that this side's peer may not send."""

    def _move_windows(self, change: int) -> None:
        if not change:
            return
        for stream in self.streams.values():
            if overflows(stream.send_window, change):
                self.tallies["window_overflows"] += 1
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR,
                    f"initial window makes the window of stream {stream.id} too large",
                )
            stream.send_window += change
            if stream.pending is not None:
                self._wake(stream)

    def _acked(self, size: int) -> None:
        if size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS ACK of {size} bytes")
        self.guards.spend("settings", self._now_ns)
        if not self._settings_acked:
            self._settings_acked = True
            self._settings_in_force()

    def _settings_in_force(self) -> None:
        """The peer knows our settings now."""
        self._stream_window = self.limits.stream_window

    def _goaway(self, code: int, last_id: int, debug: bytes) -> None:
        self.guards.spend("settings", self._now_ns)
        self._events.append(GoAway(code, last_id, debug))

    def _judge(self, kind: int, stream_id: int, size: int = 0) -> bool:
        """What a frame deserves on a stream that is not open; True if it may open it."""
        past = self._past(stream_id)
        verdict, code = NOT_OPEN[past][kind]
        if verdict is Verdict.ACCEPT:
            return True
        if verdict is Verdict.CLOSE:
            raise ConnectionFault(code, f"frame of type {kind} on {past.value} stream {stream_id}")
        # A large upload that we stopped is on its way for a while; only small frames are a game.
        if kind != WINDOW_UPDATE and size < self.limits.tiny:
            self._spend("ignored_frames")
        if verdict is Verdict.RESET:
            self._put_reset(stream_id, code)
        return False

    def _past(self, stream_id: int) -> Past:
        return self.history.past(stream_id)

    def _stream_fault(self, stream_id: int, code: int, name: str = "stream_errors") -> None:
        """End one stream for an error of the peer. Those count as if the peer had reset it."""
        self.tallies[name] += 1
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state != CLOSED:
            self.reset(stream, code)
            self._events.append(Reset(stream, code))
        self.guards.spend("resets", self._now_ns)
