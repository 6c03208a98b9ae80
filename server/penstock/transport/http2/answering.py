"""How a server answers: head, messages and trailers, or a refusal; one piece where they fit."""

from collections.abc import Sequence
from struct import Struct

from penstock.transport.http2.answers import HEAD, OK_TRAILERS, trailers, trailers_only
from penstock.transport.http2.connection import Connection
from penstock.transport.http2.frames import END_HEADERS, END_STREAM, HEADERS, ErrorCode
from penstock.transport.http2.metadata import Metadata
from penstock.transport.http2.outlet import FRAME_COST
from penstock.transport.http2.sending import PREFIX, Message
from penstock.transport.http2.stream import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    OPEN,
    Stream,
)

_QUICK_HEAD = Struct(f">IBI{len(HEAD)}sIBIBI")
"""HEADERS with the usual head, then the header of DATA and the prefix of its message."""
_QUICK_TAIL = Struct(f">IBI{len(OK_TRAILERS)}s")
_HEAD_WORD = len(HEAD) << 8 | HEADERS
_TAIL_WORD = len(OK_TRAILERS) << 8 | HEADERS
_TAIL_FLAGS = END_HEADERS | END_STREAM
_QUICK_COST = FRAME_COST + 5
_pack_head = _QUICK_HEAD.pack
_pack_tail = _QUICK_TAIL.pack


class Answering(Connection):
    """What a server sends. Answers to a stream that is closed do nothing.

    What the application does to a stream brings no event for it.
    """

    __slots__ = ()

    # Long for its speed: every small unary call passes here.
    def respond(
        self,
        stream: Stream,
        message: Message,
        extra_trailers: bytes = b"",
        *,
        head: bytes = HEAD,
        compressed: bool = False,
    ) -> None:
        """Answer a unary call with status OK: head, message and trailers, as windows permit.

        `extra_trailers` is a block of metadata that goes behind the status.
        """
        pieces = message if type(message) is tuple else (message,)
        size = 5
        for piece in pieces:
            size += len(piece)
        if (
            size <= self._join_limit
            and size <= stream.send_window
            and size <= self.send_window
            and size < self._out_room
            and stream.state == HALF_CLOSED_REMOTE
            and not stream.head_sent
            and head is HEAD
            and not extra_trailers
        ):
            stream_id = stream.id
            stream.state = CLOSED
            del self.streams[stream_id]
            self.send_window -= size
            self._out_room -= size + _QUICK_COST
            start = _pack_head(
                _HEAD_WORD, END_HEADERS, stream_id, HEAD, size << 8, 0, stream_id, 0, size - 5
            )
            end = _pack_tail(_TAIL_WORD, _TAIL_FLAGS, stream_id, OK_TRAILERS)
            self.out.append(b"".join((start, *pieces, end)))
        elif not stream.state & HALF_CLOSED_LOCAL and stream.trailers is None:
            self.send_head(stream, head)
            self._queue(stream, (PREFIX.pack(compressed, size - 5), *pieces), size)
            self.send_trailers(stream, OK_TRAILERS + extra_trailers)

    def send_head(self, stream: Stream, block: bytes = HEAD) -> None:
        """Send the head before any message; `send_messages` does it where this was not called."""
        super().send_head(stream, block)

    def send_messages(
        self,
        stream: Stream,
        messages: Sequence[Message],
        *,
        compressed: bool = False,
        end: bool = False,
    ) -> bool:
        """As for any sender; the usual head goes first."""
        if not stream.head_sent:
            super().send_head(stream, HEAD)
        return super().send_messages(stream, messages, compressed=compressed, end=end)

    def send_trailers(self, stream: Stream, block: bytes = OK_TRAILERS) -> None:
        """End the call with this block, after its messages; the head goes first if it did not."""
        if not stream.head_sent:
            super().send_head(stream, HEAD)
        super().send_trailers(stream, block)

    def refuse(self, stream: Stream, code: int, text: str, trailing: Metadata = ()) -> None:
        """End the call with a status of gRPC other than OK; messages that wait are dropped.

        ValueError for metadata that gRPC forbids.
        """
        if stream.state & HALF_CLOSED_LOCAL:
            return
        make = trailers if stream.head_sent else trailers_only
        self._answer(stream, make(code, text, trailing))

    def _answer(self, stream: Stream, block: bytes) -> None:
        """End a call with one header block; what waits to be sent is dropped."""
        self._forget_unsent(stream)
        stream.head_sent = True
        super().send_trailers(stream, block)
        # The peer may have caused it, and read nothing: it counts as its control frames do.
        self._control_room -= len(block) + FRAME_COST

    def _sent_end(self, stream: Stream) -> None:
        was_open = stream.state == OPEN
        self._drop(stream)
        if was_open:
            # The answer does not depend on what is still to come (RFC 9113, 8.1).
            self._put_reset(stream.id, ErrorCode.NO_ERROR)
