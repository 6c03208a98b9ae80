"""What comes back to a client: heads, messages and trailers of its calls, as events.

A usual answer (the head, one message and the trailers that the server sends every time) is known
by its bytes, and becomes one event without a look at its header fields.
"""

from struct import Struct
from typing import Any

from penstock.transport.http2.client_events import Answered, Responded, Trailers
from penstock.transport.http2.client_rules import is_misplaced, is_usual_end, is_usual_head
from penstock.transport.http2.compression import MessageError
from penstock.transport.http2.connection import Connection
from penstock.transport.http2.events import Message
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.flow import MESSAGE_COST
from penstock.transport.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADER_SIZE,
    HEADERS,
    ErrorCode,
)
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.messages import Assembler
from penstock.transport.http2.response_heads import (
    INTERNAL,
    UNKNOWN,
    ResponseHead,
    ResponseHeads,
    final_status,
)
from penstock.transport.http2.sending import PREFIX
from penstock.transport.http2.stream import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    Buffer,
    Stream,
)

_ENDS = END_HEADERS | END_STREAM
_MOST_KNOWN = 32
_LONGEST_KNOWN = 1024

_unpack = FRAME_HEADER.unpack_from
_unpack_prefix = PREFIX.unpack_from
_unpack_data = Struct(">IBIBI").unpack_from
_DATA_SIZE = HEADER_SIZE + PREFIX.size


class ClientStream(Stream):
    """One call. `head` is the server's once it is there; `tag` belongs to whoever opened the call.

    Of a `held` stream the server may send only so much as was `consumed`.
    """

    __slots__ = ("held_back", "tag")

    head: ResponseHead | None
    held_back: bool
    tag: Any


class Answers(Connection):
    """The receiving half of a client's connection."""

    __slots__ = ("_changes", "_known_ends", "_known_heads")

    def __init__(
        self, limits: Limits, stream_type: type[ClientStream], read_buffer: bytearray | None
    ) -> None:
        decoder = HeaderDecoder(
            ResponseHeads(limits.metadata_size),
            table_limit=limits.header_table_size,
            block_limit=limits.header_block_size,
        )
        super().__init__(limits, stream_type, decoder, b"", read_buffer)
        # Header blocks whose meaning is known while the table that they refer to stands still.
        self._changes = 0
        self._known_heads: set[bytes] = set()
        self._known_ends: set[bytes] = set()

    # Long for its speed: it runs for every answer.
    def _head_arrived(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, n: int
    ) -> int:
        if n - end > _DATA_SIZE and not flags & END_STREAM and data[start:end] in self._known_heads:
            word, data_flags, data_id, compressed, length = _unpack_data(data, end)
            after = end + HEADER_SIZE + (word >> 8)
            if (
                word == length + 5 << 8
                and not data_flags
                and not compressed
                and data_id == stream_id
                and n - after > HEADER_SIZE
            ):
                word, end_flags, end_id = _unpack(data, after)
                begin = after + HEADER_SIZE
                stop: int = begin + (word >> 8)
                stream = self.streams.get(stream_id)
                if (
                    stop <= n
                    and end_flags == _ENDS
                    and end_id == stream_id
                    and word & 0xFF == HEADERS
                    and data[begin:stop] in self._known_ends
                    and stream is not None
                    and stream.state == HALF_CLOSED_LOCAL
                    and stream.head is None
                    and length <= self.limits.message_size
                ):
                    del self.streams[stream_id]
                    stream.state = CLOSED
                    self.recv_window -= length + 5
                    message = data[end + _DATA_SIZE : after]
                    self._events.append(Answered(stream, message))
                    return stop
        return super()._head_arrived(data, start, end, flags, stream_id, n)

    def _block_arrived(self, stream_id: int, block: bytes, ends: int) -> None:
        head = self._read_block(block)
        stream = self.streams.get(stream_id)
        if stream is None:
            if not stream_id & 1 or self._judge(HEADERS, stream_id):
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is not open"
                )
        elif (
            stream.state & HALF_CLOSED_REMOTE
            or head.problem
            or is_misplaced(stream.head, head, ends)
        ):
            text = head.problem or "a header block where none may be"
            self._give_up(stream, INTERNAL, f"malformed response: {text}")
        elif ends:
            self._ended(stream, head)
        elif head.http_status >= 200:
            self._responded(stream, head)

    def _read_block(self, block: bytes) -> ResponseHead:
        decoder = self.decoder
        head: ResponseHead = decoder.decode(block)
        if decoder.changes != self._changes:
            self._changes = decoder.changes
            self._known_heads.clear()
            self._known_ends.clear()
        elif len(block) > _LONGEST_KNOWN:
            return head
        elif is_usual_head(head) and len(self._known_heads) < _MOST_KNOWN:
            self._known_heads.add(block)
        elif is_usual_end(head) and len(self._known_ends) < _MOST_KNOWN:
            self._known_ends.add(block)
        return head

    def _responded(self, stream: Stream, head: ResponseHead) -> None:
        if head.http_status != 200 or not head.is_grpc or head.status is not None:
            # No gRPC server spoke, or one that had too much to say: nothing good follows.
            status, text = final_status(head)
            self._give_up(stream, status or UNKNOWN, text)
            return
        stream.head = head
        self._events.append(Responded(stream, head))

    def _ended(self, stream: Stream, head: ResponseHead) -> None:
        status, text = final_status(head)
        assembler = stream.assembler
        if assembler is not None and not status and not assembler.idle():
            status, text = INTERNAL, "the response ended in the middle of a message"
        if stream.state & HALF_CLOSED_LOCAL:
            self._drop(stream)
        else:
            # The server wants no more of what we would still send.
            self.reset(stream, ErrorCode.CANCEL)
        self._events.append(Trailers(stream, status, text, head.metadata))

    def _give_up(self, stream: Stream, status: int, text: str) -> None:
        self.reset(stream, ErrorCode.CANCEL)
        self._events.append(Trailers(stream, status, text))

    # Long for its speed: it runs for every message of a stream.
    def _data(
        self, data: bytes, start: int, stop: int, size: int, flags: int, stream_id: int
    ) -> int:
        stream = self.streams.get(stream_id)
        if stream is None or stream.state & HALF_CLOSED_REMOTE:
            return super()._data(data, start, stop, size, flags, stream_id)
        if stream.head is None:
            self._give_up(stream, INTERNAL, "malformed response: DATA before HEADERS")
            return super()._data(data, start, stop, size, flags, stream_id)
        assembler = stream.assembler
        if assembler is None:
            assembler = stream.receive_slowly(self._stream_window, self._assembler(stream))
        if flags or stop - start != size or not assembler.idle():
            return super()._data(data, start, stop, size, flags, stream_id)
        position = start
        held = 0
        events = self._events
        most = self.limits.message_size
        while stop - position >= 5:
            compressed, length = _unpack_prefix(data, position)
            end = position + 5 + length
            if compressed or end > stop or length > most:
                break
            events.append(Message(stream, data[position + 5 : end]))
            held += length + MESSAGE_COST
            position = end
        taken = position - start
        if not taken:
            return super()._data(data, start, stop, size, flags, stream_id)
        self.recv_window -= taken
        stream.recv_window -= taken
        if stream.held_back:
            stream.held += held
            stream.waiting += held
            self._held += held
        if stream.recv_window < 0:
            self._stream_fault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "window_overruns")
        elif position < stop:
            return super()._data(data, position, stop, stop - position, flags, stream_id)
        elif stream.recv_window < self._stream_window >> 1:
            self._give_credit(stream)
        return stop

    def _take_message(self, stream: Stream, message: Buffer, ends: int) -> bool:
        # What is usual was taken in above; an answer never ends with a message.
        del stream, message, ends
        return False

    def _hold(self, stream: Stream, size: int) -> None:
        if stream.held_back:  # type: ignore[attr-defined]
            super()._hold(stream, size)

    def _peer_ended(self, stream: Stream) -> None:
        self._give_up(stream, UNKNOWN, "the response ended without trailers")

    def _assembler(self, stream: Stream) -> Assembler:
        limits = self.limits
        encoding = None if stream.head is None else stream.head.encoding
        return Assembler(
            limits.message_size, encoding, limits.reserve, limits.release, role="CLIENT"
        )

    def _message_failed(self, stream: Stream, error: MessageError) -> None:
        self._give_up(stream, error.status, error.text)
