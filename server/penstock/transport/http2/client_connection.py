"""The client's side of a connection: calls are opened, cancelled, and given back by the server."""

from struct import Struct
from typing import Any

from penstock.transport.http2.client_answers import Answers
from penstock.transport.http2.client_answers import ClientStream as ClientStream
from penstock.transport.http2.client_events import Unprocessed
from penstock.transport.http2.client_rules import (
    CLIENT_LIMITS,
    STREAMS_BEFORE_SETTINGS,
    UNLIMITED_STREAMS,
    opening_bytes,
)
from penstock.transport.http2.events import Event, Reset
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    MAX_STREAM_ID,
    ErrorCode,
)
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.outlet import FRAME_COST
from penstock.transport.http2.stream import HALF_CLOSED_LOCAL, Buffer, Past, Stream

_pack_head = FRAME_HEADER.pack
_pack_data = Struct(">IBIBI").pack


class ClientConnection(Answers):
    """The client's side of a connection. `out` holds what a client says first from the beginning.

    Look at `room` before `call` and `open`.
    """

    __slots__ = ("_left", "_most", "_next_id", "_written_id")

    def __init__(
        self,
        limits: Limits = CLIENT_LIMITS,
        stream_type: type[ClientStream] = ClientStream,
        read_buffer: bytearray | None = None,
    ) -> None:
        super().__init__(limits, stream_type, read_buffer)
        # A server never sends 1, so that a 1 in here will be a server's mistake.
        self.peer.enable_push = 0
        self._next_id = 1
        self._written_id = -1
        # How many calls may be open at once; none once the connection is `_left`.
        self._most = STREAMS_BEFORE_SETTINGS
        self._left = False
        self.out.insert(0, opening_bytes(limits))

    # -- calls -----------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many calls may be opened now."""
        return 0 if self.closing else self._most - len(self.streams)

    @property
    def exhausted(self) -> bool:
        """Whether all numbers of streams are used up: no call can ever be opened here."""
        return self._next_id > MAX_STREAM_ID

    # Long for its speed: it runs for every call.
    def call(
        self,
        block: bytes,
        message: bytes | memoryview | tuple[Buffer, ...],
        tag: Any = None,
        *,
        compressed: bool = False,
        held_back: bool = False,
    ) -> ClientStream:
        """Send a whole request of one message; RuntimeError if there is no room.

        `block` is its header block, `compressed` says that the message is. With `held_back` the
        server waits until the application has `consumed` what it sent.
        """
        stream = self._new_stream(tag, held_back)
        if type(message) is bytes:
            size = len(message) + 5
            if (
                size <= self._join_limit
                and len(block) <= self._join_limit
                and size <= stream.send_window
                and size <= self.send_window
                and size < self._out_room
            ):
                stream.state = HALF_CLOSED_LOCAL
                stream.send_window -= size
                self.send_window -= size
                self._out_room -= size + len(block) + FRAME_COST
                stream_id = stream.id
                self.out.append(
                    b"%b%b%b%b"
                    % (
                        _pack_head(len(block) << 8 | HEADERS, END_HEADERS, stream_id),
                        block,
                        _pack_data(size << 8, END_STREAM, stream_id, compressed, size - 5),
                        message,
                    )
                )
                return stream
        self.send_head(stream, block)
        self.send_messages(stream, (message,), compressed=compressed, end=True)
        return stream

    def open(self, block: bytes, tag: Any = None, *, held_back: bool = False) -> ClientStream:
        """Begin a call whose messages follow; RuntimeError if there is no room."""
        stream = self._new_stream(tag, held_back)
        self.send_head(stream, block)
        return stream

    def end(self, stream: ClientStream) -> None:
        """No more messages follow."""
        self.send_messages(stream, (), end=True)

    def cancel(self, stream: ClientStream, code: int = ErrorCode.CANCEL) -> None:
        """End a call at once; no event follows for it."""
        self.reset(stream, code)

    def _new_stream(self, tag: Any, held_back: bool) -> ClientStream:
        if self.closing or self._most <= len(self.streams):
            raise RuntimeError(f"{len(self.streams)} calls are open, and there is no room for more")
        stream_id = self._next_id
        self.history.last = stream_id
        self._next_id = stream_id + 2
        stream: ClientStream = self.stream_type(  # type: ignore[assignment]
            self, stream_id, None, self.peer.initial_window_size
        )
        stream.tag = tag
        stream.held_back = held_back
        self.streams[stream_id] = stream
        if stream_id == MAX_STREAM_ID:
            self._leave()
        return stream

    def output(self) -> list[Buffer]:
        """What must be written now, forgotten here; more may be in `out` afterwards."""
        self._written_id = self.history.last
        return super().output()

    def lost(self) -> list[Event]:
        """The socket is gone: calls of which nothing was written can go elsewhere."""
        self.closing = True
        return [
            Unprocessed(stream) if stream.id > self._written_id else Reset(stream, ErrorCode.CANCEL)
            for stream in self._drop_all()
        ]

    # -- what a server says of the connection ----------------------------------------------------

    def _sent_end(self, stream: Stream) -> None:
        stream.state |= HALF_CLOSED_LOCAL

    def _reset_by_peer(self, stream_id: int, code: int) -> None:
        super()._reset_by_peer(stream_id, code)
        events = self._events
        last = events[-1] if events else None
        if code == ErrorCode.REFUSED_STREAM and type(last) is Reset and last.stream.id == stream_id:
            events[-1] = Unprocessed(last.stream)

    def _goaway(self, code: int, last_id: int, debug: bytes) -> None:
        super()._goaway(code, last_id, debug)
        self._leave()
        for stream in [each for each in self.streams.values() if each.id > last_id]:
            self._drop(stream)
            self.history.remember(stream.id, Past.RESET_BY_US)
            self._events.append(Unprocessed(stream))

    def _leave(self) -> None:
        self._left = True
        self._most = 0

    def _check_settings(self) -> None:
        if self.peer.enable_push:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "setting enable_push of a server is 1")
        if not self._left:
            most = self.peer.max_concurrent_streams
            self._most = UNLIMITED_STREAMS if most is None else most

    def _last_seen(self) -> int:
        # Of the server's streams, of which there are none.
        return 0

    def _past(self, stream_id: int) -> Past:
        return self.history.past(stream_id) if stream_id & 1 else Past.IDLE
