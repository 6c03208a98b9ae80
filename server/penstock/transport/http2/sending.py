"""What may be sent on a stream: a head, messages within both windows, an end."""

from collections.abc import Sequence
from struct import Struct

from penstock.transport.http2.frames import END_STREAM, FRAME_HEADER, ErrorCode
from penstock.transport.http2.outlet import FRAME_COST, Outlet
from penstock.transport.http2.stream import CLOSED, HALF_CLOSED_LOCAL, Buffer, Stream

Message = bytes | memoryview | tuple[Buffer, ...]

PREFIX = Struct(">BI")
_SMALL = 1024
_PREFIXES = tuple(PREFIX.pack(0, size) for size in range(_SMALL))


class Sender(Outlet):
    """The sending half of a connection. All of it works on one event loop, and never raises."""

    __slots__ = ()

    def send_head(self, stream: Stream, block: bytes) -> None:
        """Send the header block that comes before messages, once."""
        if not stream.head_sent and not stream.state & HALF_CLOSED_LOCAL:
            stream.head_sent = True
            self._put_block(stream.id, block, 0)

    # Long for its speed: it runs for every batch of streamed messages.
    def send_messages(
        self,
        stream: Stream,
        messages: Sequence[Message],
        *,
        compressed: bool = False,
        end: bool = False,
    ) -> bool:
        """Send messages after each other, as windows permit; `end` half-closes after them.

        False if the stream takes no messages any more; nothing of them was sent then. A stream
        whose reader lets too much pile up is reset here.
        """
        if stream.state & HALF_CLOSED_LOCAL or stream.trailers is not None:
            return False
        if stream.unsent > self.limits.stream_unsent:
            self.tallies["slow_readers"] += 1
            self.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
            return False
        chunks, size = _framed(messages, compressed)
        if (
            size <= self._join_limit
            and size <= stream.send_window
            and size <= self.send_window
            and size < self._out_room
            and stream.pending is None
            and size > 0
        ):
            stream.send_window -= size
            self.send_window -= size
            self._out_room -= size + FRAME_COST
            chunks[0] = FRAME_HEADER.pack(size << 8, end, stream.id)
            self.out.append(b"".join(chunks))
            if end:
                self._sent_end(stream)
            return True
        if size:
            self._queue(stream, chunks, size)
        if end:
            self._end_after_pending(stream, b"")
        return True

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End our side with this header block, after all messages that wait."""
        if not stream.state & HALF_CLOSED_LOCAL and stream.trailers is None:
            self._end_after_pending(stream, block)

    def reset(self, stream: Stream, code: int) -> None:
        """End the stream at once; what waits to be sent is dropped."""
        if stream.state != CLOSED:
            self._drop(stream)
            self._put_reset(stream.id, code)

    def _end_after_pending(self, stream: Stream, block: bytes) -> None:
        stream.trailers = block
        if stream.pending is not None:
            return
        if block:
            self._put_block(stream.id, block, END_STREAM)
        else:
            self._put_control(FRAME_HEADER.pack(0, END_STREAM, stream.id))
        self._sent_end(stream)


def _framed(messages: Sequence[Message], compressed: bool) -> tuple[list[Buffer], int]:
    """The messages with their prefixes, behind a place for a frame's header, and their size."""
    length = len(messages[0]) if messages else 0
    if len(messages) > 1 and length < _SMALL and len(set(map(len, messages))) == 1:
        # Streamed responses are mostly alike: then they are one join in C.
        prefix = PREFIX.pack(compressed, length)
        try:
            joined = prefix.join(messages)  # type: ignore[arg-type]
        except TypeError:
            # Some are in as many pieces as the others have bytes.
            joined = b""
        if joined:
            return [b"", prefix, joined], (length + 5) * len(messages)
    chunks: list[Buffer] = [b""]
    size = 0
    for message in messages:
        if type(message) is tuple:
            length = sum(map(len, message))
            chunks.append(PREFIX.pack(compressed, length))
            chunks.extend(message)
        else:
            length = len(message)
            plain = length < _SMALL and not compressed
            chunks.append(_PREFIXES[length] if plain else PREFIX.pack(compressed, length))
            chunks.append(message)  # type: ignore[arg-type]
        size += length + 5
    return chunks, size
