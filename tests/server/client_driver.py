"""One way to call both clients, so that a law is written once."""

import asyncio
import inspect
import threading
from typing import Any

from google.protobuf.message import Message
from tests.server.fake_server import Unary

from penstock.client.aio import AsyncClient
from penstock.client.sync import Client


class Driver:
    """Calls a client, and runs what it returns if that is a coroutine."""

    def __init__(self, kind: str, runner: asyncio.Runner, **options: Any) -> None:
        self._runner = runner
        self.client: Client | AsyncClient
        self.slept: list[float] = []
        if kind == "blocking":
            self.client = Client(sleep=self.slept.append, **options)
        else:
            self.client = AsyncClient(sleep=self._note, **options)

    async def _note(self, seconds: float) -> None:
        self.slept.append(seconds)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **options: Any) -> Any:
            return self.run(lambda: method(*args, **options))

        return call

    def run(self, action: Any) -> Any:
        """The result of an action that may be a coroutine."""

        async def inside() -> Any:
            result = action()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(inside())

    def collect(self, *args: Any, **options: Any) -> list[Any]:
        """Everything that a stream gives."""

        async def inside() -> list[Any]:
            assert isinstance(self.client, AsyncClient)
            async with self.client.stream(*args, **options) as stream:
                return [result async for result in stream]

        if isinstance(self.client, AsyncClient):
            return self._runner.run(inside())
        with self.client.stream(*args, **options) as stream:
            return list(stream)


class Ended:
    """Set once the server has noticed that the client left."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.wait = self._event.wait


def always(answer: Message) -> Unary:
    """A method that has one answer."""
    data = answer.SerializeToString()
    return lambda *_: data
