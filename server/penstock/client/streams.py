"""The answers to one request, as they come. Whoever leaves early ends the request in the server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from penstock.client import calls
from penstock.client.base import Answers, AsyncAnswers
from penstock.client.result import InferResult


class ResultStream(Iterator[InferResult]):
    """The answers to one request, as they come.

    Leaving its `with` block, `close`, `cancel` or dropping it ends the request in the server too.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def __next__(self) -> InferResult:
        while (result := calls.read_stream_result(next(self._answers))) is None:
            continue
        return result

    def cancel(self) -> None:
        """End the request; what was already received is dropped. Safe to call more than once."""
        self._answers.cancel()

    def close(self) -> None:
        """The same as cancel: nothing is left behind."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncResultStream(AsyncIterator[InferResult]):
    """The answers to one request, as they come.

    Leaving its `async with` block, `aclose`, `cancel` or dropping it ends the request in the server
    too.
    """

    def __init__(self, answers: AsyncAnswers) -> None:
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._cancelled = False

    async def __anext__(self) -> InferResult:
        while (result := calls.read_stream_result(await anext(self._answers))) is None:
            continue
        return result

    def cancel(self) -> None:
        """End the request; what was already received is dropped. Safe to call more than once."""
        self._cancelled = True
        self._answers.cancel()

    async def aclose(self) -> None:
        """The same as cancel: nothing is left behind."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # A channel keeps an abandoned call alive, and the server would go on with it.
        if not self._cancelled and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answers.cancel)
