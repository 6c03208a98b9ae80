"""The receiving half of a connection: bytes to frames to events, for either side, without I/O.

A subclass is one side: it says what a header block means (`_head_arrived`, `_block_arrived`), which
bytes come before the first frame (`opening`), how messages of a stream are put together
(`_assembler`), and what follows when one of them cannot be (`_message_failed`) or when our side has
ended (`_sent_end`). The rules about frames are common to both and live here and below.
"""

from typing import Any

from penstock.transport.http2.bulk import Bulk
from penstock.transport.http2.events import Event, Lost, Reset, Room
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADER_SIZE,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PRIORITY_FLAG,
    PRIORITY_SIZE,
    SETTINGS,
    ErrorCode,
    goaway,
    window_update,
    without_padding,
)
from penstock.transport.http2.hpack import HeaderDecoder
from penstock.transport.http2.hpack_tables import HeaderBlockTooLarge, HpackError
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.stream import Stream

CHUNK = 64 * 1024
"""What is looked at in one go: beyond it, bytes of large messages are copied once only."""
HEAD = 4 * 1024
"""What is read between two wide frames of a message: a header, and whatever is in between."""
_AROUND_BLOCK = 1 + PRIORITY_SIZE + 255
_UNUSUAL = PADDED | PRIORITY_FLAG | END_HEADERS

_unpack = FRAME_HEADER.unpack_from


class Connection(Bulk):
    """What both sides have in common. `received` never raises; see the module for what to override.

    `read_buffer` may be shared by all connections of a loop: nothing stays in it between calls.
    """

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_ready",
        "_block_stream_id",
        "_buffer",
        "_head",
        "_longest_word",
        "_rest",
        "_target",
        "decoder",
        "opening",
        "stream_type",
    )

    def __init__(
        self,
        limits: Limits,
        stream_type: type[Stream],
        decoder: "HeaderDecoder[Any]",
        opening: bytes,
        read_buffer: bytearray | None = None,
    ) -> None:
        super().__init__(limits)
        self.stream_type = stream_type
        self.decoder = decoder
        self.opening = opening
        self._buffer = memoryview(read_buffer or bytearray(limits.read_buffer))
        self._head = self._buffer[:HEAD]
        self._longest_word = limits.max_frame_size << 8 | 0xFF
        # What of a frame did not come yet: less than a header, or a frame that is taken in whole.
        self._rest = b""
        self._target: memoryview | None = None
        # The header block whose CONTINUATION has to come next.
        self._block: list[bytes] = []
        self._block_stream_id = 0
        self._block_flags = 0
        self._block_ready = False
        if limits.connection_window > DEFAULT_WINDOW:
            self.out.append(window_update(0, limits.connection_window - DEFAULT_WINDOW))

    def buffer(self) -> memoryview:
        """Where the next bytes go: into the large message that is coming in, or the read buffer."""
        target = self._target = self._current_target()
        if target is not None:
            return target
        # The head of the next wide frame is all that should not be read right into the message.
        return self._head if self._wide and self._within_large() else self._buffer

    def received(self, size: int, now_ns: int) -> list[Event]:
        """So many bytes were written into `buffer()`: what they mean. `Lost` is the last event."""
        events: list[Event] = []
        if self.closing:
            return events
        self._events = events
        self._now_ns = now_ns
        try:
            self._read(size)
            if self.recv_window < self.limits.connection_window >> 1:
                self._top_up()
            if self._control_room < 0:
                raise self.guards.enough("control_output")
        except ConnectionFault as fault:
            self._fail(fault)
        except HeaderBlockTooLarge:
            self._fail(self.guards.enough("header_blocks"))
        except HpackError as error:
            self._fail(ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)))
        except Exception as defect:
            # Ours, not the peer's: it costs this connection and nothing else, and is to be logged.
            ours = ConnectionFault(ErrorCode.INTERNAL_ERROR, "internal error")
            ours.__cause__ = defect
            self._fail(ours)
        if self.rooms:
            self._report_rooms()
        # An idle connection must not keep alive what its last calls brought and were given.
        self._events = []
        return events

    def feed(self, data: bytes | memoryview, now_ns: int) -> list[Event]:
        """The same for bytes that lie elsewhere: they are copied through `buffer()`."""
        events: list[Event] = []
        position = 0
        while position < len(data):
            buffer = self.buffer()
            size = min(len(buffer), len(data) - position)
            buffer[:size] = data[position : position + size]
            events.extend(self.received(size, now_ns))
            position += size
        return events

    def _head_arrived(
        self, data: bytes, start: int, end: int, flags: int, stream_id: int, n: int
    ) -> int:
        """A whole header block lies at `data[start:end]`, `n` bytes are there: where to go on.

        A subclass may take in the frames behind it, too, where that saves time.
        """
        del n
        self._block_arrived(stream_id & MAX_STREAM_ID, data[start:end], flags & END_STREAM)
        return end

    def _block_arrived(self, stream_id: int, block: bytes, ends: int) -> None:
        """A header block came: opens a stream, answers one, or brings trailers."""
        raise NotImplementedError

    def _read(self, size: int) -> None:
        if self._target is not None:
            self._target = None
            self._filled(size)
        elif size <= CHUNK:
            self._parse(self._rest + self._buffer[:size])
        else:
            self._read_chunks(size)

    def _read_chunks(self, size: int) -> None:
        buffer = self._buffer
        position = 0
        while position < size:
            if self._within_large() and self._block_ready and not self._rest:
                position = self._straight_in(buffer, position, size, self._longest_word)
            target = self._current_target()
            if target is not None:
                step = min(len(target), size - position)
                target[:step] = buffer[position : position + step]
                self._filled(step)
            else:
                # Within a large message only the next frame's header is looked at.
                usual = HEADER_SIZE if self._within_large() and not self._rest else CHUNK
                step = min(usual, size - position)
                self._parse(self._rest + buffer[position : position + step])
            position += step

    # The hot loop: a method of its own for every frame would cost more than most frames do.
    def _parse(self, data: bytes) -> None:
        n = len(data)
        position = 0
        if self._content_left or self._skip_left:
            position = self._content(data, 0, n)
        elif self.opening:
            position = self._opened(data, n)
        longest = self._longest_word
        while n - position >= HEADER_SIZE:
            word, flags, stream_id = _unpack(data, position)
            if word > longest:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR,
                    f"frame of {word >> 8} bytes, at most {longest >> 8} are allowed",
                )
            start = position + HEADER_SIZE
            end = start + (word >> 8)
            kind = word & 0xFF
            if (
                kind == HEADERS
                and end <= n
                and flags & _UNUSUAL == END_HEADERS
                and self._block_ready
            ):
                position = self._head_arrived(data, start, end, flags, stream_id, n)
                continue
            stream_id &= MAX_STREAM_ID
            if not self._block_ready:
                self._check_order(kind, flags, stream_id)
            if kind == DATA:
                after = self._data(data, start, min(end, n), end - start, flags, stream_id)
                if after < 0:
                    break
                position = after
                continue
            if kind > CONTINUATION:
                self.guards.spend("ignored_frames", self._now_ns)
                self._skip_left = end - start
                position = self._content(data, start, n)
                continue
            if kind in (HEADERS, CONTINUATION):
                if end - start > self.limits.header_block_size + _AROUND_BLOCK:
                    raise self.guards.enough("header_blocks")
                if end > n:
                    break
                self._header_frame(kind, flags, stream_id, data[start:end])
            else:
                self._check_control(kind, end - start, stream_id)
                if end > n:
                    break
                self._control_frame(kind, flags, stream_id, data[start:end])
            position = end
        self._rest = data[position:]

    def _opened(self, data: bytes, n: int) -> int:
        opening = self.opening
        if data[: len(opening)] != opening[:n]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self.opening = opening[n:]
        return min(n, len(opening))

    def _check_order(self, kind: int, flags: int, stream_id: int) -> None:
        if self._block_stream_id:
            if kind != CONTINUATION or stream_id != self._block_stream_id:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR,
                    f"frame of type {kind} on stream {stream_id}, expected CONTINUATION "
                    f"on stream {self._block_stream_id}",
                )
        elif kind != SETTINGS or flags & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        else:
            self.established = self._block_ready = True

    def _header_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """HEADERS or CONTINUATION, whole; only one header block is open at a time."""
        if kind == CONTINUATION:
            self._continue_block(flags, payload)
        else:
            self._begin_block(flags, stream_id, payload)
        if flags & END_HEADERS:
            block = b"".join(self._block)
            self._block.clear()
            self._block_stream_id = 0
            self._block_ready = True
            self._block_arrived(stream_id, block, self._block_flags & END_STREAM)

    def _begin_block(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        start, end = 0, len(payload)
        if flags & PADDED:
            start, end = without_padding(payload, start, end)
        if flags & PRIORITY_FLAG:
            start += PRIORITY_SIZE
        if start > end:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, f"HEADERS of {len(payload)} bytes without its priority"
            )
        self._block.append(payload[start:end])
        self._block_stream_id = stream_id
        self._block_flags = flags
        self._block_ready = False

    def _continue_block(self, flags: int, payload: bytes) -> None:
        if not self._block_stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        if not payload and not flags & END_HEADERS:
            self.guards.spend("empty_frames", self._now_ns)
        self._block.append(payload)
        if len(self._block) > 1 + self.limits.continuations:
            raise self.guards.enough("continuations")
        if sum(map(len, self._block)) > self.limits.header_block_size:
            raise self.guards.enough("header_blocks")

    def _fail(self, fault: ConnectionFault) -> None:
        self.error = fault
        self.tallies["connection_errors"] += 1
        self.out.append(goaway(self._last_seen(), fault.code, fault.text.encode()[:256]))
        self.closing = True
        self._events.extend(Reset(stream, fault.code) for stream in self._drop_all())
        self._events.append(Lost(fault))

    def _report_rooms(self) -> None:
        self._events.extend(Room(stream) for stream in self.rooms if not stream.closed)
        self.rooms.clear()
