"""From what arrives on a stream to the handler of its method, for calls that are not quick."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from penstock.status import CODES
from penstock.transport.base import (
    Buffer,
    Method,
    Refusal,
    StreamHandler,
    UnaryHandler,
)
from penstock.transport.http2.call import Load, ServerCall
from penstock.transport.http2.deadlines import DeadlineWheel
from penstock.transport.http2.inbox import Inbox
from penstock.transport.http2.stream import CLOSED
from penstock_runtime.errors import Status

CANCELLED = CODES[Status.CANCELLED]
DEADLINE_EXCEEDED = CODES[Status.DEADLINE_EXCEEDED]
RESOURCE_EXHAUSTED = CODES[Status.RESOURCE_EXHAUSTED]
UNIMPLEMENTED = CODES[Status.UNIMPLEMENTED]
LATE = "Deadline Exceeded"
NO_METHOD = "Method not found!"
TOO_MANY_CALLS = "Concurrent RPC limit exceeded!"
NOT_ONE_MESSAGE = "a unary call must have exactly one request message"


class Desk(Protocol):
    """What dispatching needs of the transport."""

    methods: Mapping[str, Method]
    deadlines: DeadlineWheel
    load: Load | None

    def read(self, message: Buffer) -> None:
        """A message reached its handler, or never will."""

    def start(self, call: ServerCall, serving: Coroutine[Any, Any, None]) -> None:
        """Serve a call in a task."""


class Dispatch:
    """Begins calls. One for all connections of a transport."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def request(self, call: ServerCall, message: Buffer, now_ns: int) -> None:
        """A whole request came at once."""
        method = self._admit(call, now_ns)
        if method is None:
            return
        if method.stream is not None:
            self._stream(call, method.stream)
            self.message(call, message, end=True)
        else:
            self._unary(call, method, message)

    def opened(self, call: ServerCall, now_ns: int) -> None:
        """A call began; its messages follow."""
        method = self._admit(call, now_ns)
        if method is not None and method.stream is not None:
            self._stream(call, method.stream)
        else:
            call.begin = method

    def message(self, call: ServerCall, message: Buffer, end: bool) -> None:
        """A message of a call that is open; `end`: the last."""
        inbox = call.inbox
        if inbox is not None:
            inbox.put(message)
            if end:
                inbox.close()
            return
        # One message of any size belongs to the call; there is nothing to hold back.
        call.taken(len(message))
        self._desk.read(message)
        if call.begin is None:
            return
        if call.message is not None:
            call.end(UNIMPLEMENTED, NOT_ONE_MESSAGE)
            return
        call.message = message
        if end:
            self.ended(call)

    def ended(self, call: ServerCall) -> None:
        """The caller sends nothing more."""
        method, message = call.begin, call.message
        call.begin = call.message = None
        if call.inbox is not None:
            call.inbox.close()
        elif method is not None and message is not None:
            self._unary(call, method, message)
        elif method is not None:
            call.end(UNIMPLEMENTED, NOT_ONE_MESSAGE)

    def _admit(self, call: ServerCall, now_ns: int) -> Method | None:
        """Fill the slots of a new call; its method, or None if it was refused."""
        call.prepare()
        method = self._desk.methods.get(call.method)
        if method is None:
            call.end(UNIMPLEMENTED, NO_METHOD)
            return None
        load = self._desk.load
        if load is not None:
            if load.active >= load.limit:
                call.end(RESOURCE_EXHAUSTED, TOO_MANY_CALLS)
                return None
            load.active += 1
            call.load = load
        timeout_ns = call.head.timeout_ns
        if timeout_ns is not None:
            if timeout_ns <= 0:
                call.end(DEADLINE_EXCEEDED, LATE)
                return None
            deadline_ns = call.deadline_ns = now_ns + timeout_ns
            self._desk.deadlines.add(call, deadline_ns, now_ns)
        return method

    def _stream(self, call: ServerCall, handler: StreamHandler) -> None:
        call.inbox = Inbox(call.taken, self._desk.read)
        self._desk.start(call, serve_stream(handler, call, call.inbox))

    def _unary(self, call: ServerCall, method: Method, message: Buffer) -> None:
        if method.submit is not None:
            try:
                method.submit(message, call)
            except Exception as error:
                call.fail(error)
        elif method.unary is not None:
            self._desk.start(call, serve_unary(method.unary, call, message))


async def serve_unary(handler: UnaryHandler, call: ServerCall, message: Buffer) -> None:
    """Answer a unary call with what its handler returns or raises."""
    try:
        # Views are as good as bytes to everything that reads messages.
        call.reply(await handler(message, call))  # type: ignore[arg-type]
    except Refusal as refusal:
        call.refuse(refusal.answer)
    except asyncio.CancelledError:
        _abandon(call)
        raise
    except Exception as error:
        call.fail(error)


async def serve_stream(handler: StreamHandler, call: ServerCall, inbox: Inbox) -> None:
    """Run the handler of a streaming call to its end, which is the call's."""
    try:
        await handler(inbox, call)  # type: ignore[arg-type]
        call.finish()
    except Refusal as refusal:
        call.refuse(refusal.answer)
    except asyncio.CancelledError:
        _abandon(call)
        raise
    except Exception as error:
        call.fail(error)


def _abandon(call: ServerCall) -> None:
    # Usually the caller is gone or answered; a handler that gave up by itself left it waiting.
    if call.state != CLOSED:
        call.end(CANCELLED, "")
