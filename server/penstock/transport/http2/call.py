"""One call on the server: a stream that a handler can answer, now or later.

Quick calls, those of a method with `submit`, are answered without a task, a future or a timer of
their own; the others have a task that serves them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, Protocol

from penstock.status import CODES, Answer, translate
from penstock.transport.base import Buffer, Message, Metadata, Method
from penstock.transport.http2.answers import OK_TRAILERS, trailing_block
from penstock.transport.http2.inbox import Inbox
from penstock.transport.http2.server_connection import ServerConnection
from penstock.transport.http2.stream import CLOSED, Stream
from penstock_runtime.errors import PenstockError, Status
from penstock_runtime.request import InferRequest, InferResponse

_log = logging.getLogger("penstock.transport")

CHUNKS_A_TURN = 256
"""Chunks that may wait for the end of the loop's turn before their writers wait as well."""
INTERNAL = CODES[Status.INTERNAL]
UNKNOWN = CODES[Status.UNKNOWN]


class Owner(Protocol):
    """The one who writes what a connection has to say."""

    peer: str
    dirty: bool
    high_water: int

    def schedule(self) -> None:
        """Write before the loop's turn ends."""

    async def flushed(self) -> None:
        """Return once something was written, or never will be."""


class Load:
    """How many calls are inside; counted only where that is limited."""

    __slots__ = ("active", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.active = 0


class Link(ServerConnection):
    """A connection that knows who writes for it."""

    __slots__ = ("owner",)

    owner: Owner


class _Done:
    """What takes no time to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]


_DONE = _Done()


class ServerCall(Stream):
    """What a handler sees of a call. Its slots are filled by the protocol, which saves every quick
    call a constructor.
    """

    __slots__ = (
        "begin",
        "bucket",
        "deadline_ns",
        "inbox",
        "load",
        "message",
        "on_cancel",
        "permit",
        "request",
        "response",
        "room",
        "task",
        "trailing",
    )

    connection: Link
    request: InferRequest | None
    response: InferResponse | None
    on_cancel: Callable[[], None] | None
    deadline_ns: int | None
    bucket: set[Any] | None
    """Where the wheel of deadlines keeps the call; None: nowhere."""
    load: Load | None
    """Where the call is counted; None: nowhere."""
    task: asyncio.Task[None] | None
    inbox: Inbox | None
    message: Buffer | None
    """The message of a unary call whose end did not come yet."""
    begin: Method | None
    """What to begin with it then."""
    room: asyncio.Event | None
    trailing: bytes
    permit: Any
    """What the caller may do, where somebody asked; else not set."""

    def prepare(self) -> None:
        """Fill the slots; the protocol does it in place for quick calls."""
        self.request = self.response = self.on_cancel = self.deadline_ns = self.bucket = None
        self.load = self.task = self.inbox = self.message = self.begin = self.room = None
        self.trailing = b""

    # -- what is known of it ---------------------------------------------------------------------

    @property
    def method(self) -> str:
        """Full name of the method."""
        path: str = self.head.path
        return path

    @property
    def peer(self) -> str:
        """Where the call comes from."""
        return self.connection.owner.peer

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's metadata without binary values; shared by calls that send the same."""
        metadata: Mapping[str, str] = self.head.metadata
        return metadata

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this at the end of a call that succeeds."""
        self.trailing = trailing_block(metadata)

    # -- the end of a unary call -----------------------------------------------------------------

    def reply(self, message: Message) -> None:
        """End the call with this message and status OK."""
        # Every quick call passes here: what `_leave` and `_write` do is done in place.
        self.on_cancel = None
        bucket = self.bucket
        if bucket is not None:
            bucket.discard(self)
            self.bucket = None
        if self.load is not None:
            self.load.active -= 1
            self.load = None
        connection = self.connection
        connection.respond(self, message, self.trailing)
        owner = connection.owner
        if not owner.dirty:
            owner.schedule()

    def refuse(self, answer: Answer) -> None:
        """End the call with this status."""
        self.end(answer.code, answer.text, answer.trailing)

    def end(self, code: int, text: str, trailing: Metadata = ()) -> None:
        """End the call with this status; what is not sent yet is dropped."""
        self._leave()
        try:
            self.connection.refuse(self, code, text, trailing)
        except ValueError as error:
            # Whoever handled the call has no other way to end it.
            _log.exception("%s was refused with metadata that cannot be sent", self.method)
            self.connection.refuse(self, INTERNAL, f"refused with status {code} and bad {error}")
        self._write()

    def fail(self, error: Exception) -> None:
        """End the call because its handler failed with what is no refusal."""
        _log.error("%s failed with an unexpected error", self.method, exc_info=error)
        self.end(UNKNOWN, f"Unexpected {type(error)}: {error}")

    # -- streaming -------------------------------------------------------------------------------

    def write(self, message: bytes) -> Awaitable[None]:
        """Send a message; returns once there is room for more."""
        return self.write_many((message,))

    def write_many(self, messages: Sequence[bytes]) -> Awaitable[None]:
        """Send several messages in this order; returns once there is room for more."""
        connection = self.connection
        if not connection.send_messages(self, messages):
            # The caller is gone or far too slow, and the handler goes on nevertheless.
            self.gone()
            raise asyncio.CancelledError
        owner = connection.owner
        if not owner.dirty:
            owner.schedule()
        if self.unsent <= owner.high_water and len(connection.out) <= CHUNKS_A_TURN:
            return _DONE
        return self._has_room()

    def finish(self) -> None:
        """End a streaming call with status OK, behind all that was written."""
        self._leave()
        self.connection.send_trailers(self, OK_TRAILERS + self.trailing)
        self._write()

    async def _has_room(self) -> None:
        connection = self.connection
        owner = connection.owner
        while self.state != CLOSED:
            if self.unsent > owner.high_water:
                self.room = asyncio.Event()
                await self.room.wait()
            elif len(connection.out) > CHUNKS_A_TURN:
                await owner.flushed()
            else:
                return
        raise asyncio.CancelledError

    def taken(self, size: int) -> None:
        """The handler took a message of this size: the caller may send as much again."""
        connection = self.connection
        connection.consumed(self, size)
        if connection.out:
            self._write()

    # -- ends that the handler did not choose ----------------------------------------------------

    def abort(self, error: PenstockError) -> None:
        """End the call with this error although its handler waits."""
        answer = translate(error)
        self.cut(answer.code, answer.text, answer.trailing)

    def cut(self, code: int, text: str, trailing: Metadata = ()) -> None:
        """End the call with this status, and tell its handler."""
        if self.state != CLOSED:
            on_cancel, inbox = self.on_cancel, self.inbox
            self.end(code, text, trailing)
            self._tell(on_cancel, inbox)

    def gone(self) -> None:
        """The caller is gone: tell the handler."""
        on_cancel, inbox = self.on_cancel, self.inbox
        self._leave()
        self._tell(on_cancel, inbox)

    def make_room(self) -> None:
        """What waited to be sent has shrunk."""
        if self.room is not None:
            self.room.set()
            self.room = None

    def _tell(self, on_cancel: Callable[[], None] | None, inbox: Inbox | None) -> None:
        if on_cancel is not None:
            try:
                on_cancel()
            except Exception:
                _log.exception("a handler of %s failed when it was cancelled", self.method)
        if inbox is not None:
            inbox.cancel()
        if self.task is not None:
            self.task.cancel()
        self.make_room()

    def _leave(self) -> None:
        """The call is answered, or nobody waits for an answer: nothing is to happen to it."""
        self.on_cancel = None
        if self.inbox is not None:
            self.inbox.drop()
        # The inbox knows the call as well: together they would wait for the garbage collector.
        self.begin = self.message = self.inbox = None
        bucket = self.bucket
        if bucket is not None:
            bucket.discard(self)
            self.bucket = None
        if self.load is not None:
            self.load.active -= 1
            self.load = None

    def _write(self) -> None:
        owner = self.connection.owner
        if not owner.dirty:
            owner.schedule()
