"""The server's side of a connection: streams that clients open, and the end of it all."""

from struct import Struct

from penstock.transport.http2.answering import Answering
from penstock.transport.http2.compression import MessageError
from penstock.transport.http2.events import Drained, Event, Opened, Refused, Request
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import (
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    MAX_STREAM_ID,
    PREFACE,
    ErrorCode,
    goaway,
)
from penstock.transport.http2.heads import RequestHead, RequestHeads, valid_trailers
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.messages import Assembler
from penstock.transport.http2.sending import PREFIX
from penstock.transport.http2.settings import (
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE_ID,
    MAX_HEADER_LIST_SIZE,
    settings_frame,
)
from penstock.transport.http2.stream import HALF_CLOSED_REMOTE, Past, Stream

SHUTDOWN_PING = b"shutdown"
"""Its answer tells that the client has seen the first GOAWAY."""

INFLATED_UNIT = 64 * 1024
"""Bytes that a token of `Limits.inflated` stands for."""

_DATA_AND_PREFIX = Struct(">IBIBI")
_unpack_data = _DATA_AND_PREFIX.unpack_from
_DATA_START = FRAME_HEADER.size + PREFIX.size


class ServerConnection(Answering):
    """One client's connection. `out` holds our SETTINGS from the start."""

    __slots__ = ("_draining", "_final_id", "_inflated", "_max_streams")

    def __init__(
        self,
        limits: Limits | None = None,
        stream_type: type[Stream] = Stream,
        read_buffer: bytearray | None = None,
    ) -> None:
        limits = limits or Limits()
        decoder = HeaderDecoder(
            RequestHeads(limits.metadata_size),
            table_limit=max(limits.header_table_size, 4096),
            block_limit=limits.header_block_size,
        )
        super().__init__(limits, stream_type, decoder, PREFACE, read_buffer)
        self.out.insert(0, _settings(limits))
        # So that every id is that of the one before plus two, the first as well.
        self.history.last = -1
        self._max_streams = limits.max_concurrent_streams
        self._draining = False
        self._final_id: int | None = None
        # Bytes that were inflated and make no whole unit yet.
        self._inflated = 0

    def shutdown(self) -> None:
        """Let the client know that no new calls are welcome; those on their way are served.

        `Drained` follows, or `drained` is True, once the client knows and the last call is over.
        """
        if not self._draining and not self.closing:
            self._draining = True
            self.out.append(goaway(MAX_STREAM_ID, ErrorCode.NO_ERROR))
            self.ping(SHUTDOWN_PING)

    def settle(self) -> None:
        """The client knows of the shutdown, or had enough time to: no more calls are taken."""
        if self._draining and self._final_id is None and not self.closing:
            self._final_id = max(0, self.history.last)
            self._max_streams = 0
            self.out.append(goaway(self._final_id, ErrorCode.NO_ERROR))

    @property
    def drained(self) -> bool:
        """Whether a shutdown is complete: what `out` holds is the last."""
        return self._final_id is not None and not self.streams

    def received(self, size: int, now_ns: int) -> list[Event]:
        """What these bytes mean; `Drained` once, at the end of a shutdown."""
        events = super().received(size, now_ns)
        if self._final_id is not None and not self.streams and not self.closing:
            events.append(Drained())
            self.closing = True
        return events

    # Long for its speed: every call passes here.
    def _head_arrived(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, n: int
    ) -> int:
        history = self.history
        streams = self.streams
        block = data[start:end]
        if stream_id != history.last + 2 or len(streams) >= self._max_streams:
            self._block_arrived(stream_id & MAX_STREAM_ID, block, flags & END_STREAM)
            return end
        head = self.decoder.decode(block)
        history.last = stream_id
        stream = self.stream_type(self, stream_id, head, self.peer.initial_window_size)
        if flags & END_STREAM or head.problem is not None or head.content_length is not None:
            self._admit(stream, head, flags & END_STREAM)
            return end
        streams[stream_id] = stream
        if end + _DATA_START <= n:
            word, flags, next_id, compressed, length = _unpack_data(data, end)
            stop: int = end + _DATA_START + length
            if (
                # A DATA frame of this stream that ends it and holds one message, all of it here.
                word == (length + 5) << 8
                and flags == END_STREAM
                and next_id == stream_id
                and stop <= n
                and not compressed
                and length + 5 <= self._quick_size
                and word <= self._longest_word
            ):
                stream.state = HALF_CLOSED_REMOTE
                self.recv_window -= length + 5
                self._events.append(Request(stream, data[end + _DATA_START : stop]))
                return stop
        self._report_opened(stream)
        return end

    def _block_arrived(self, stream_id: int, block: bytes, ends: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._trailers_arrived(stream, block, ends)
            return
        if not stream_id & 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"stream {stream_id}: a client's ids are odd"
            )
        # Decoded in any case: the table has to stay in step with the client's.
        head = self.decoder.decode(block)
        if not self._judge(HEADERS, stream_id):
            return
        self.history.skip_to(stream_id)
        if self._final_id is not None:
            # The client was told, and takes it for not processed.
            self.history.remember(stream_id, Past.RESET_BY_US)
        elif len(self.streams) >= self._max_streams:
            self.tallies["refused_streams"] += 1
            self._put_reset(stream_id, ErrorCode.REFUSED_STREAM)
            self.guards.spend("refused_streams", self._now_ns)
        else:
            window = self.peer.initial_window_size
            self._admit(self.stream_type(self, stream_id, head, window), head, ends)

    def _admit(self, stream: Stream, head: RequestHead, ends: int) -> None:
        """Take a stream in, or refuse it at once for what is wrong with its head."""
        self.streams[stream.id] = stream
        stream.expected = head.content_length
        if ends:
            stream.state = HALF_CLOSED_REMOTE
        problem = head.problem
        if problem is None and ends and stream.expected:
            self._reject(stream)
        elif problem is None:
            self._report_opened(stream)
            if ends:
                self._peer_ended(stream)
        elif problem.block is None:
            self._reject(stream, problem.name)
        else:
            self.tallies[problem.name] += 1
            self._answer(stream, problem.block)
            self._events.append(Refused(stream, problem.status, problem.text, problem.name))

    def _report_opened(self, stream: Stream) -> None:
        stream.opened_at = len(self._events)
        self._events.append(Opened(stream))

    def _reject(self, stream: Stream, name: str = "stream_errors") -> None:
        # Nobody was told of this stream, so nobody is told of its end.
        self.tallies[name] += 1
        self.reset(stream, ErrorCode.PROTOCOL_ERROR)
        self.guards.spend("resets", self._now_ns)

    def _trailers_arrived(self, stream: Stream, block: bytes, ends: int) -> None:
        fields = self.decoder.fields(block)
        if stream.state & HALF_CLOSED_REMOTE:
            self._stream_fault(stream.id, ErrorCode.STREAM_CLOSED)
        elif not ends or not valid_trailers(fields, self.limits.metadata_size):
            self._stream_fault(stream.id, ErrorCode.PROTOCOL_ERROR, "malformed_trailers")
        else:
            self._end_content(stream)

    def _assembler(self, stream: Stream) -> Assembler:
        limits = self.limits
        encoding = stream.head.encoding
        return Assembler(
            limits.message_size,
            encoding,
            limits.reserve,
            limits.release,
            inflated=None if encoding is None else self._inflating,
        )

    def _inflating(self, size: int) -> None:
        """So many bytes more were inflated."""
        self._inflated += size
        while self._inflated >= INFLATED_UNIT:
            self._inflated -= INFLATED_UNIT
            self.guards.spend("inflated", self._now_ns)

    def _message_failed(self, stream: Stream, error: MessageError) -> None:
        self.tallies[error.name] += 1
        self.refuse(stream, error.status, error.text)
        self._events.append(Refused(stream, error.status, error.text, error.name))

    def _past(self, stream_id: int) -> Past:
        return self.history.past(stream_id) if stream_id & 1 else Past.IDLE

    def _last_seen(self) -> int:
        return max(0, self.history.last if self._final_id is None else self._final_id)

    def _fullness_changed(self) -> None:
        # Whoever drains takes no streams in any case.
        if self._final_id is None:
            self._max_streams = 0 if self._full else self.limits.max_concurrent_streams

    def _ping_acked(self, data: bytes) -> None:
        if data == SHUTDOWN_PING and self._draining and self._final_id is None:
            self.settle()
        else:
            super()._ping_acked(data)


def _settings(limits: Limits) -> bytes:
    return settings_frame(
        {
            HEADER_TABLE_SIZE: limits.header_table_size,
            MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            INITIAL_WINDOW_SIZE: limits.stream_window,
            MAX_FRAME_SIZE_ID: limits.max_frame_size,
            MAX_HEADER_LIST_SIZE: limits.metadata_size,
        }
    )
