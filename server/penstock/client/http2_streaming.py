"""Streaming calls over our HTTP/2: any number of requests, any number of answers. Those of tasks.

What was received and nobody took holds the server back; what the server does not take holds `send`
back.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from penstock.client.base import Buffer, Metadata
from penstock.client.http2_exchange import Exchange
from penstock.client.http2_status import cancelled

_KEPT = 1 << 20
"""Bytes of requests that are kept so that they can be sent over another connection."""
END = None


class StreamExchange(Exchange):
    """The parts of a streaming call that are the same for tasks and threads.

    `request` is None where requests follow by `send`; `initial` is the server's metadata.
    """

    __slots__ = ("_kept", "_kept_size", "half_closed", "initial")

    held_back = True

    def __init__(
        self, path: str, request: bytes | None, metadata: bytes, deadline_ns: int | None
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns)
        self.half_closed = request is not None
        self.initial: Metadata = ()
        self._kept: list[bytes] | None = []
        self._kept_size = 0

    @property
    def replayable(self) -> bool:
        """Whether nothing was answered, and all that was sent is still here."""
        return super().replayable and self._kept is not None

    def opened(self) -> None:
        """The call is on a connection: what was sent before goes out."""
        if self.request is None and self._kept is not None and (self._kept or self.half_closed):
            self.link.send(self.stream, self._kept, self.half_closed)
        if self._kept_size > _KEPT:
            self._kept = None

    def responded(self, metadata: Metadata) -> None:
        """The server's initial metadata came in."""
        self.initial = metadata
        # The server looked at it: it will never be sent again.
        self._kept = None

    def send(self, message: bytes) -> None:
        """Send one more request, now or as soon as there is a connection."""
        if self.stream is not None:
            self.link.send(self.stream, (message,), False)
        if self._kept is not None:
            self._kept.append(message)
            self._kept_size += len(message)
            if self._kept_size > _KEPT and self.stream is not None:
                self._kept = None

    def half_close(self) -> None:
        """No more requests follow."""
        if self.half_closed:
            return
        self.half_closed = True
        if self.stream is not None:
            self.link.send(self.stream, (), True)

    @property
    def crowded(self) -> bool:
        """Whether so much waits to be sent that the sender should wait for `room`."""
        if self.stream is None:
            return self._kept_size > _KEPT and not self.done
        crowded: bool = self.link.crowded(self.stream)
        return crowded

    def took(self, sizes: Sequence[int]) -> None:
        """The application took answers of these sizes: the server may send as many more."""
        if self.stream is not None:
            self.link.consumed(self.stream, sizes)


class TaskStream(StreamExchange):
    """A streaming call of a task."""

    __slots__ = ("_arrived", "_loop", "_reader", "_writer")

    def __init__(
        self, path: str, request: bytes | None, metadata: bytes, deadline_ns: int | None
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns)
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Buffer] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def message(self, data: Buffer) -> None:
        """An answer came in."""
        self._arrived.append(data)
        _wake(self._reader)

    def tell(self) -> None:
        """The call is over: nobody is to wait any more."""
        _wake(self._reader)
        _wake(self._writer)

    def opened(self) -> None:
        """The call is on a connection, which may have room."""
        super().opened()
        self.room()

    def room(self) -> None:
        """Whoever waits to send is to look."""
        _wake(self._writer)

    def drop(self) -> None:
        """Forget the answers that nobody took."""
        self._arrived.clear()

    async def next(self) -> Buffer | None:
        """The next answer, None after the last; InferenceError if the call failed.

        RuntimeError while another task waits for it.
        """
        while not self._arrived:
            if self.done:
                if self.error is not None:
                    raise self.error
                return END
            if self._reader is not None:
                raise RuntimeError(
                    "another task waits for the next answer of this stream, expected one reader"
                )
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._arrived.popleft()
        self.took((len(data),))
        return data

    def check_writer(self) -> None:
        """RuntimeError while another task waits to send."""
        if self._writer is not None:
            raise RuntimeError("another task waits to send on this stream, expected one writer")

    async def drained(self) -> None:
        """Wait until the sender may go on; InferenceError if the call failed."""
        while self.crowded:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self.done and self.error is not None:
            raise self.error


class AsyncHttp2Call:
    """A streaming call of a task. `async for` gives the answers; leaving early must `cancel`."""

    def __init__(self, exchange: TaskStream) -> None:
        self._exchange = exchange
        self._cancelled = False

    def __aiter__(self) -> "AsyncHttp2Call":
        return self

    async def __anext__(self) -> Buffer:
        if self._cancelled:
            raise cancelled("the stream was cancelled")
        try:
            data = await self._exchange.next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is END:
            raise StopAsyncIteration
        return data

    async def send(self, message: bytes) -> None:
        """Send one more request; returns once there is room for the next."""
        if self._exchange.done:
            raise self._exchange.error or cancelled("the call is over")
        self._exchange.check_writer()
        self._exchange.send(message)
        await self._exchange.drained()

    def done_sending(self) -> None:
        """No more requests follow."""
        if not self._exchange.done:
            self._exchange.half_close()

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
        self._exchange.drop()
        self._exchange.abandon(cancelled("the stream was cancelled"))


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
