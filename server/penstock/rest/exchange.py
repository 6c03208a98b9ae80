"""What an endpoint gets of one request over HTTP, and the answer it gives."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from penstock.rest.call import HttpCall, Scope
from penstock.rest.problems import NO_HEADERS
from penstock_runtime.errors import Cancelled, DeadlineExceeded

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

Piece = bytes | memoryview
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose size is known: its body in pieces that follow each other."""

    pieces: tuple[Piece, ...] = ()
    code: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.pieces))


@dataclass(frozen=True, slots=True)
class EventsReply:
    """An answer that goes on: server-sent events, as they come."""

    events: AsyncIterator[bytes]


class Exchange:
    """One request: what it says, and whether whoever sent it is still there."""

    __slots__ = ("_deadline", "body", "call", "detailed", "receive", "status", "values")

    def __init__(self, scope: Scope, receive: Receive, call: HttpCall) -> None:
        self.receive = receive
        self._deadline = False
        self.call = call
        self.values: Mapping[str, str] = scope["path_params"]
        """The parts of the path that have a name."""
        self.body = b""
        self.status = "OK"
        """How it ended, in gRPC's words: an answer that goes on may end badly."""
        self.detailed = False
        """Whether the answer is to tell how it came about."""

    def value(self, name: str) -> str:
        """A part of the path, "" if the path has no such part."""
        return self.values.get(name, "")

    @contextlib.contextmanager
    def watched(self, cancel: Callable[[], None]) -> Iterator[None]:
        """While the block waits, `cancel` is called if the caller leaves or the deadline passes.

        What then ends the block as cancelled is DeadlineExceeded in the second case.
        """
        loop = asyncio.get_running_loop()
        leaving = loop.create_task(self._gone(cancel))
        timer = self._timer(loop, cancel)
        try:
            yield
        except Cancelled:
            if self._deadline:
                raise DeadlineExceeded("Deadline Exceeded", reason="DEADLINE_EXPIRED") from None
            raise
        finally:
            leaving.cancel()
            if timer is not None:
                timer.cancel()

    async def _gone(self, cancel: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            continue
        cancel()

    def _timer(
        self, loop: asyncio.AbstractEventLoop, cancel: Callable[[], None]
    ) -> asyncio.TimerHandle | None:
        if self.call.deadline_ns is None:
            return None

        def expire() -> None:
            self._deadline = True
            cancel()

        return loop.call_later((self.call.deadline_ns - time.monotonic_ns()) / 1e9, expire)
