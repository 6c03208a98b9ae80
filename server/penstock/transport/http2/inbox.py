"""The messages of a streaming call, as its handler reads them."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from penstock.transport.base import Buffer


def _nothing(message: Buffer) -> None:
    del message


class Inbox:
    """An iterator that ends with the caller's half of the stream; for one reader at a time.

    `taken` is told the size of every message that the reader takes: only then may the caller send
    as much again. `left` is told of every message that was taken or never will be.
    """

    __slots__ = ("_closed", "_left", "_messages", "_taken", "_waiter")

    def __init__(
        self, taken: Callable[[int], None], left: Callable[[Buffer], None] = _nothing
    ) -> None:
        self._messages: deque[Buffer] = deque()
        self._taken = taken
        self._left = left
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: Buffer) -> None:
        """A message came in."""
        self._messages.append(message)
        self._wake()

    def close(self) -> None:
        """Nothing more comes; what is there can still be read."""
        self._closed = True
        self._wake()

    def drop(self) -> None:
        """Nobody reads any more: let go of what is there."""
        while self._messages:
            self._left(self._messages.popleft())

    def cancel(self) -> None:
        """The call is over: nothing can be read any more, and whoever waits is cancelled."""
        self.drop()
        self._closed = True
        if self._waiter is not None:
            self._waiter.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Buffer:
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._messages.popleft()
        self._taken(len(message))
        self._left(message)
        return message

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<Inbox {len(self)} messages, {'closed' if self._closed else 'open'}>"
