"""Streaming calls of threads over our HTTP/2: threads wait, the loop in the background works."""

from queue import SimpleQueue

from penstock.client.base import Buffer, Metadata
from penstock.client.http2_status import cancelled
from penstock.client.http2_streaming import END, StreamExchange
from penstock.client.loop_thread import LoopThread
from penstock.transport.http2.flow import MESSAGE_COST

_CREDIT = 64 << 10
"""What a reading thread takes before the loop hears of it: bytes, and the cost of each message. So
little that a thousand streams together do not use up what a connection may hold.
"""


class ThreadStream(StreamExchange):
    """A streaming call of a thread: `arrived` is where it finds answers, and END after them."""

    __slots__ = ("_writers", "arrived")

    def __init__(
        self, path: str, request: bytes | None, metadata: bytes, deadline_ns: int | None
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns)
        self.arrived: SimpleQueue[Buffer | None] = SimpleQueue()
        self._writers: list[SimpleQueue[None]] = []

    def message(self, data: Buffer) -> None:
        """An answer came in."""
        self.arrived.put(data)

    def tell(self) -> None:
        """The call is over: nobody is to wait any more."""
        self.arrived.put(END)
        self.room()

    def opened(self) -> None:
        """The call is on a connection, which may have room."""
        super().opened()
        self.room()

    def room(self) -> None:
        """Whoever waits to send is to look."""
        if not self.crowded:
            writers, self._writers = self._writers, []
            for writer in writers:
                writer.put(None)

    def send_for(self, message: bytes, writer: "SimpleQueue[None]") -> None:
        """Send a request; `writer` gets something once its thread may go on."""
        self.send(message)
        self._writers.append(writer)
        self.room()


class Http2Call:
    """A streaming call of a thread. Iterating gives the answers; dropping it ends the call."""

    def __init__(self, exchange: ThreadStream, thread: LoopThread) -> None:
        self._exchange = exchange
        self._thread = thread
        self._cancelled = False
        self._taken: list[int] = []
        self._owing = 0

    def __iter__(self) -> "Http2Call":
        return self

    def __next__(self) -> Buffer:
        self._thread.check()
        exchange = self._exchange
        data = exchange.arrived.get()
        if data is END:
            # For whoever asks again, and for other threads that wait here.
            exchange.arrived.put(END)
        if self._cancelled:
            raise cancelled("the stream was cancelled")
        if data is END:
            if exchange.error is not None:
                raise exchange.error
            raise StopIteration
        self._took(len(data))
        return data

    def _took(self, size: int) -> None:
        self._taken.append(size)
        self._owing += size + MESSAGE_COST
        if self._owing >= _CREDIT:
            taken, self._taken, self._owing = self._taken, [], 0
            self._thread.post(self._exchange.took, taken)

    def send(self, message: bytes) -> None:
        """Send one more request; returns once there is room for the next."""
        self._thread.check()
        writer: SimpleQueue[None] = SimpleQueue()
        self._thread.post(self._exchange.send_for, message, writer)
        writer.get()
        if self._exchange.done:
            raise self._exchange.error or cancelled("the call is over")

    def done_sending(self) -> None:
        """No more requests follow."""
        self._thread.check()
        self._thread.post(self._exchange.half_close)

    @property
    def trailing_metadata(self) -> Metadata:
        """What the server sent after its last answer."""
        return self._exchange.trailing

    @property
    def initial_metadata(self) -> Metadata:
        """What the server sent before its first answer."""
        return self._exchange.initial

    def cancel(self) -> None:
        """End the call; what was already received is dropped. Safe to call more than once."""
        self._cancelled = True
        self._end()

    def _end(self) -> None:
        if not (self._exchange.done or self._thread.forked):
            self._thread.post(self._exchange.abandon, cancelled("the stream was cancelled"))

    def __del__(self) -> None:
        self._end()
