"""One call on its way over our HTTP/2: what it asks, where it is, and how it ended.

An exchange outlives a stream: one that the server certainly did not look at goes over another
connection. Everything here happens on the channel's loop unless it says otherwise.
"""

import asyncio
from threading import Lock
from typing import Any, ClassVar

from penstock.client.base import Buffer, Metadata
from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

MOST_ATTEMPTS = 5
"""How often a call is sent that servers do not look at, before it fails as UNAVAILABLE."""


class Exchange:
    """What all calls share; the subclasses say what becomes of messages, and whom to tell.

    `link` and `stream` are set while the call is on a connection, `bucket` while its deadline is
    watched. `metadata` is a header block, `trailing` what the server sent at the end.
    """

    __slots__ = (
        "attempts",
        "bucket",
        "deadline_ns",
        "done",
        "error",
        "link",
        "metadata",
        "path",
        "request",
        "stream",
        "trailing",
        "wait",
    )

    held_back: ClassVar[bool] = False
    """Whether the server may send only as much as was taken."""

    def __init__(
        self,
        path: str,
        request: bytes | None,
        metadata: bytes,
        deadline_ns: int | None,
        wait: bool = False,
    ) -> None:
        self.path = path
        self.request = request
        self.metadata = metadata
        self.deadline_ns = deadline_ns
        self.wait = wait
        self.attempts = 0
        self.done = False
        self.error: InferenceError | None = None
        self.trailing: Metadata = ()
        self.link: Any = None
        self.stream: Any = None
        self.bucket: set[Any] | None = None

    @property
    def replayable(self) -> bool:
        """Whether the request can be sent once more from its beginning."""
        return self.attempts < MOST_ATTEMPTS

    def opened(self) -> None:
        """The call is on a connection, with all of its `request` if it has one."""

    def responded(self, metadata: Metadata) -> None:
        """The server's initial metadata came in."""

    def message(self, data: Buffer) -> None:
        """A message came in."""
        raise NotImplementedError

    def answered(self, data: Buffer) -> None:
        """The only message came in, and OK with it."""
        self.message(data)
        self.finish(None)

    def finish(self, error: InferenceError | None) -> None:
        """The call is over: OK or with this error. Nothing happens if it was over already."""
        if self.done:
            return
        self.done = True
        self.error = error
        self.link = self.stream = None
        bucket = self.bucket
        if bucket is not None:
            bucket.discard(self)
            self.bucket = None
        self.tell()

    def abandon(self, error: InferenceError) -> None:
        """End the call from this side, in the server as well."""
        if self.done:
            return
        link, stream = self.link, self.stream
        self.finish(error)
        if stream is not None:
            link.cancel(stream)

    def tell(self) -> None:
        """Whoever waits is to look."""
        raise NotImplementedError

    def room(self) -> None:
        """What waits to be sent became little."""

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting" if self.stream is None else repr(self.stream)
        return f"<{type(self).__name__} {self.path} {state}>"


class UnaryExchange(Exchange):
    """One request, one answer."""

    __slots__ = ("answer",)

    def __init__(
        self,
        path: str,
        request: bytes,
        metadata: bytes,
        deadline_ns: int | None,
        wait: bool = False,
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns, wait)
        self.answer: Buffer | None = None

    def message(self, data: Buffer) -> None:
        """The answer came in; a second one is an error."""
        if self.answer is not None:
            self.abandon(InferenceError(Status.INTERNAL, "the server sent a second answer"))
            return
        self.answer = data

    def finish(self, error: InferenceError | None) -> None:
        """The call is over; without an answer it has failed."""
        if error is None and self.answer is None:
            error = InferenceError(Status.INTERNAL, "the server said OK without an answer")
        super().finish(error)

    def result(self) -> Buffer:
        """The answer of a call that is done; the error if it failed."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class TaskExchange(UnaryExchange):
    """A unary call that a task waits for, by `future`."""

    __slots__ = ("future",)

    def __init__(
        self,
        future: "asyncio.Future[Buffer]",
        path: str,
        request: bytes,
        metadata: bytes,
        deadline_ns: int | None,
        wait: bool,
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns, wait)
        self.future = future

    def tell(self) -> None:
        """The task is to go on."""
        future = self.future
        if future.done():
            return
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.result())


class ThreadExchange(UnaryExchange):
    """A unary call that a thread waits for, by `lock`: it is free once there is an end."""

    __slots__ = ("lock",)

    def __init__(
        self, path: str, request: bytes, metadata: bytes, deadline_ns: int | None, wait: bool
    ) -> None:
        super().__init__(path, request, metadata, deadline_ns, wait)
        self.lock = Lock()
        self.lock.acquire()

    def tell(self) -> None:
        """The thread is to go on."""
        self.lock.release()
