"""Calls over our HTTP/2 channels, so that a law is written once for tasks and threads."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock.client.base import Buffer
from penstock.client.channel import Carrier, ChannelSettings
from penstock.client.http2_blocking import Http2Channel
from penstock.client.http2_channel import AsyncHttp2Channel

ECHO = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


class Caller:
    """One channel of either kind; whatever it returns is awaited where that is needed."""

    def __init__(self, kind: str, settings: ChannelSettings) -> None:
        self._runner = asyncio.Runner()
        self.channel: Any
        if kind == "threads":
            self.channel = Http2Channel(settings)
        else:
            self.channel = AsyncHttp2Channel(settings)

    def run(self, action: Callable[[], Any]) -> Any:
        """The result of an action, awaited if it is a coroutine."""

        async def inside() -> Any:
            result = action()
            return await result if inspect.isawaitable(result) else result

        if isinstance(self.channel, Http2Channel):
            return action()
        return self._runner.run(inside())

    def unary(
        self,
        request: bytes = b"x",
        timeout_s: float | None = 20.0,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        wait: bool = False,
    ) -> Buffer:
        """The answer to one request."""
        answer: Buffer = self.run(
            lambda: self.channel.unary(ECHO, request, timeout_s, metadata, wait)
        )
        return answer

    def stream(self, request: bytes = b"x", timeout_s: float | None = 20.0) -> Any:
        """A call with any number of answers."""
        return self.run(lambda: self.channel.stream(STREAM, request, timeout_s, ()))

    def call(self, timeout_s: float | None = 20.0) -> Any:
        """A call whose requests follow."""
        return self.run(lambda: self.channel.call(STREAM, timeout_s, ()))

    def next(self, call: Any) -> Buffer:
        """The next answer."""
        if isinstance(self.channel, Http2Channel):
            answer: Buffer = next(call)
            return answer
        arrived: Buffer = self.run(call.__anext__)
        return arrived

    def rest(self, call: Any) -> list[Buffer]:
        """All answers that are still to come."""
        found: list[Buffer] = []
        while True:
            try:
                found.append(self.next(call))
            except (StopIteration, StopAsyncIteration):
                return found

    def settle(self) -> None:
        """Let the loop of a task's channel do what it has to do; a thread's has its own."""
        self.run(lambda: asyncio.sleep(0.01) if self._is_async else None)

    @property
    def _is_async(self) -> bool:
        return isinstance(self.channel, AsyncHttp2Channel)

    def close(self) -> None:
        """Close the channel and its loop."""
        self.run(self.channel.close)
        self._runner.close()


@contextmanager
def calling(kind: str, *addresses: str, **options: Any) -> Iterator[Caller]:
    """A channel to these addresses for the time of a block."""
    caller = Caller(kind, ChannelSettings(addresses, carrier=Carrier.HTTP2, **options))
    try:
        yield caller
    finally:
        caller.close()
