"""DATA frames to messages: what of a frame is there is taken in, and credit is given back for it.

A frame that comes in parts is remembered here.
"""

from penstock.transport.http2.compression import MessageError
from penstock.transport.http2.events import Ended, Message, Opened, Request
from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.flow import credit_due, credit_for_message
from penstock.transport.http2.frames import (
    DATA,
    END_STREAM,
    PADDED,
    ErrorCode,
    window_update,
    without_padding,
)
from penstock.transport.http2.inflow import LARGE, Inflow
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.messages import Assembler
from penstock.transport.http2.sending import PREFIX
from penstock.transport.http2.stream import HALF_CLOSED_REMOTE, Buffer, Stream

WAITED_FOR = 16 * 1024
"""A DATA frame up to this size is taken in whole, a larger one as it comes."""
WIDE = 128 * 1024
"""Behind a DATA frame of this size comes another as large, if a message is not at its end."""

_unpack_prefix = PREFIX.unpack_from


class Content(Inflow):
    """Takes in DATA. What a message means, and how it is put together, is for each side to say."""

    __slots__ = (
        "_content_ends",
        "_content_left",
        "_content_stream",
        "_quick_size",
        "_skip_left",
        "_wide",
    )

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        # Of a DATA frame that is one message, which needs no accounts if the stream ends with it.
        longest = min(limits.message_size, LARGE)
        self._quick_size = min(PREFIX.size + longest, limits.stream_window)
        # The DATA frame that is being taken in: its bytes of messages, then those to pass over. Its
        # stream is known for longer only while a large message is coming in.
        self._content_left = 0
        self._content_stream: Stream | None = None
        self._content_ends = 0
        self._skip_left = 0
        # Whether the last frame that was not taken in at once was a wide one.
        self._wide = False

    def _assembler(self, stream: Stream) -> Assembler:
        """What puts together the messages that come on this stream."""
        raise NotImplementedError

    def _message_failed(self, stream: Stream, error: MessageError) -> None:
        """A message of this stream is not to be had: end the stream, and report it."""
        raise NotImplementedError

    def _peer_ended(self, stream: Stream) -> None:
        """END_STREAM came, after whole messages: report it."""
        stream.state |= HALF_CLOSED_REMOTE
        events = self._events
        last = events[-1] if events else None
        if type(last) is Message and last.stream is stream:
            last.end = True
            message = last.message
            # A large one stays an event of its own, so that its memory is given back like any.
            if (
                type(message) is bytes
                and self._opened_now(stream)
                and stream.opened_at == len(events) - 2
            ):
                # Nobody says of a whole request that it was consumed.
                self._let_go(stream, stream.waiting)
                stream.held = 0
                events[-2:] = [Request(stream, message)]
        else:
            events.append(Ended(stream))

    def _data(
        self, data: bytes, start: int, stop: int, size: int, flags: int, stream_id: int
    ) -> int:
        """Take in a DATA frame whose payload is there up to `stop`; -1 if more has to come."""
        stream = self.streams.get(stream_id)
        whole = stop - start == size
        if not whole and ((start == stop and flags & PADDED) or self._wait_for(stream, size)):
            return -1
        self.recv_window -= size
        if stream is None or stream.state & HALF_CLOSED_REMOTE:
            self._unexpected_data(stream_id, stream, size)
            self._skip_left = size
            return self._content(data, start, stop)
        if (
            whole
            and PREFIX.size <= size <= self._quick_size
            and not flags & PADDED
            and stream.expected is None
        ):
            compressed, length = _unpack_prefix(data, start)
            if (
                length == size - PREFIX.size
                and not compressed
                and self._take_message(stream, data[start + PREFIX.size : stop], flags & END_STREAM)
            ):
                return stop
        if flags & PADDED:
            start, content_end = without_padding(data, start, start + size)
            content, padding = content_end - start, size - 1 - (content_end - start)
        else:
            content, padding = size, 0
        self._begin_content(stream, size, content, padding, flags & END_STREAM)
        return self._content(data, start, stop)

    def _take_message(self, stream: Stream, message: bytes, ends: int) -> bool:
        """Take a message that is a frame of its own; False if the careful way has to be gone."""
        assembler = stream.assembler
        if assembler is not None:
            stream.recv_window -= len(message) + PREFIX.size
            if stream.recv_window < 0 or not assembler.idle():
                stream.recv_window += len(message) + PREFIX.size
                return False
            self._hold(stream, len(message))
        elif not ends:
            return False
        if not ends:
            self._events.append(Message(stream, message))
            return True
        stream.state |= HALF_CLOSED_REMOTE
        if assembler is None and self._opened_now(stream):
            self._events[stream.opened_at] = Request(stream, message)
        else:
            self._events.append(Message(stream, message, True))
        return True

    def _opened_now(self, stream: Stream) -> bool:
        """Whether the stream's `Opened` is among the events of this read."""
        at = stream.opened_at
        opened = self._events[at] if at < len(self._events) else None
        return type(opened) is Opened and opened.stream is stream

    def _wait_for(self, stream: Stream | None, size: int) -> bool:
        if stream is None or size > WAITED_FOR:
            return False
        return stream.assembler is None or stream.assembler.target() is None

    def _unexpected_data(self, stream_id: int, stream: Stream | None, size: int) -> None:
        if stream is not None:
            self._stream_fault(stream_id, ErrorCode.STREAM_CLOSED)
        elif stream_id:
            self._judge(DATA, stream_id, size)
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")

    def _begin_content(
        self, stream: Stream, size: int, content: int, padding: int, ends: int
    ) -> None:
        assembler = stream.assembler
        if assembler is None:
            assembler = stream.receive_slowly(self._stream_window, self._assembler(stream))
        stream.recv_window -= size
        if stream.recv_window < 0:
            self._stream_fault(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "window_overruns")
            self._skip_left = content + padding
            return
        if stream.expected is not None:
            stream.expected -= content
        if content < self.limits.tiny and not ends:
            self._count_tiny(assembler, content)
        self._wide = content >= WIDE
        self._content_stream = stream
        self._content_left = content
        self._content_ends = ends
        self._skip_left = padding

    def _count_tiny(self, assembler: Assembler, content: int) -> None:
        if not content:
            self.guards.spend("empty_frames", self._now_ns)
        elif assembler.missing > content or (not assembler.missing and content < PREFIX.size):
            self.guards.spend("fragments", self._now_ns)

    def _content(self, data: bytes, position: int, n: int) -> int:
        """Take in what is there of the DATA frame that is open; where the data goes on."""
        if self._content_left:
            stop = min(position + self._content_left, n)
            self._content_left -= stop - position
            if self._content_stream is not None:
                self._feed(self._content_stream, data, position, stop)
            position = stop
        if self._content_left:
            return position
        self._finish_content()
        stop = min(position + self._skip_left, n)
        self._skip_left -= stop - position
        return stop

    def _finish_content(self) -> None:
        stream, ends = self._content_stream, self._content_ends
        self._content_ends = 0
        if stream is not None and ends:
            self._end_content(stream)
        if not self._within_large():
            self._content_stream = None

    def _drop(self, stream: Stream) -> None:
        if stream is self._content_stream:
            self._content_stream = None
        super()._drop(stream)

    def _feed(self, stream: Stream, data: bytes, start: int, stop: int) -> None:
        assembler = stream.assembler
        # An answer that did not wait for the rest has ended the stream.
        if assembler is None:
            return
        try:
            messages = assembler.feed(data, start, stop)
        except MessageError as error:
            for message in error.messages:
                self._deliver(stream, message)
            self._message_failed(stream, error)
            return
        for message in messages:
            self._deliver(stream, message)
        self._give_credit(stream)

    def _deliver(self, stream: Stream, message: Buffer) -> None:
        self._hold(stream, len(message))
        self._events.append(Message(stream, message))

    def _end_content(self, stream: Stream) -> None:
        if stream.closed:
            return
        try:
            if stream.assembler is not None:
                stream.assembler.end()
        except MessageError as error:
            self._message_failed(stream, error)
            return
        if stream.expected:
            self._stream_fault(stream.id, ErrorCode.PROTOCOL_ERROR)
        else:
            self._peer_ended(stream)

    def _give_credit(self, stream: Stream) -> None:
        assembler = stream.assembler
        if assembler is None or (self._content_ends and self._content_stream is stream):
            return
        if assembler.missing > LARGE:
            # What is left of the frame that is open was counted when it began.
            coming = self._content_left if self._content_stream is stream else 0
            credit = credit_for_message(assembler.missing - coming, stream.recv_window)
        else:
            credit = credit_due(self._stream_window, stream.held, stream.recv_window)
        if credit:
            stream.recv_window += credit
            self._put_control(window_update(stream.id, credit))

    def _within_large(self) -> bool:
        return self._target_of(self._content_stream) is not None

    def _target_of(self, stream: Stream | None) -> memoryview | None:
        if stream is None or stream.assembler is None:
            return None
        return stream.assembler.target()
