"""Reads the messages of a streaming call in the call's own task, which can be told to stop."""

import asyncio
from collections.abc import AsyncIterator

from penstock.transport.base import Buffer


class StreamReader:
    """The reading half of one call. Made and used in the task that serves it, on the loop.

    `ending`: nothing more is to be read.
    """

    __slots__ = ("_interrupted", "_news", "_reading", "_task", "ending")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._news: asyncio.Future[None] | None = None
        self._reading = False
        self._interrupted = False
        self.ending = False

    async def next(self, messages: AsyncIterator[Buffer]) -> Buffer | None:
        """The next message; None at their end, and once nothing more is to be read."""
        if self.ending:
            return None
        self._reading = True
        try:
            return await anext(messages)
        except StopAsyncIteration:
            return None
        except asyncio.CancelledError:
            # Ours, not the caller's: swallowing the caller's would leak the call.
            if not self._interrupted or self._task is None or self._task.uncancel():
                raise
            return None
        finally:
            self._reading = False

    async def news(self) -> None:
        """Wait until the task is woken."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def wake(self) -> None:
        """Let the task look again, if it waits for news."""
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    def stop(self) -> None:
        """Let the task see that the stream is to end."""
        self.ending = True
        self.wake()
        # Interrupted only while it waits for a message: a request half admitted is finished.
        if self._reading and not self._interrupted and self._task is not None:
            self._interrupted = True
            self._task.cancel()
