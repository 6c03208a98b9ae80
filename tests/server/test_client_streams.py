"""Streams of the clients: every answer, true statuses, and nothing left behind."""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.server.client_driver import Driver, Ended
from tests.server.fake_server import FakeServer

from penstock.client.aio import AsyncClient
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_protos import inference as pb

pytestmark = pytest.mark.usefixtures("transport")


def test_a_stream_gives_every_answer_but_the_empty_one(driver: Driver) -> None:
    """The message that only ends the stream is not an answer."""
    results = driver.collect("echo", {"X": [4, 2]}, id="s")

    assert [result["X"].tolist() for result in results] == [[4, 2]] * 3
    assert {result.id for result in results} == {"s"}


def test_a_stream_asks_for_true_statuses(driver: Driver, fake: FakeServer) -> None:
    """An error ends the stream with its status, so that it can be told apart."""

    def fail(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    fake.streams["ModelStreamInfer"] = fail

    with pytest.raises(InferenceError, match="NOT_FOUND: no such model"):
        driver.collect("echo", {"X": [1]})

    assert fake.metadata["triton_grpc_error"] == "true"


def test_an_error_message_of_a_stream_is_raised(driver: Driver, fake: FakeServer) -> None:
    """Servers that know no true statuses put the error into a message."""
    message = pb.ModelStreamInferResponse(error_message="no such model").SerializeToString()
    fake.streams["ModelStreamInfer"] = lambda *_: iter([message])

    with pytest.raises(InferenceError, match="no such model"):
        driver.collect("echo", {"X": [1]})


def endless(ended: Ended) -> Any:
    """A stream that goes on until its client leaves."""

    def handle(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(ended.set)
        next(messages)
        while context.is_active():
            yield pb.ModelStreamInferResponse().SerializeToString()

    return handle


@pytest.mark.parametrize("way", ["cancel", "leave", "drop"])
def test_a_stream_that_is_left_ends_in_the_server(fake: FakeServer, way: str) -> None:
    """Cancel, the end of the with block and dropping the stream all reach the server."""
    ended = Ended()
    fake.streams["ModelStreamInfer"] = endless(ended)
    with Client(fake.address) as client:
        stream = client.stream("echo", {"X": [1]})
        next(stream)

        if way == "cancel":
            stream.cancel()
            with pytest.raises(InferenceError, match="CANCELLED"):
                next(stream)
        elif way == "leave":
            with stream:
                pass
        del stream

        assert ended.wait(10)


@pytest.mark.parametrize("way", ["cancel", "leave", "drop", "close the client"])
def test_an_async_stream_that_is_left_ends_in_the_server(
    runner: asyncio.Runner, fake: FakeServer, way: str
) -> None:
    """The same for asyncio, where grpcio itself would keep an abandoned call for ever."""
    ended = Ended()
    fake.streams["ModelStreamInfer"] = endless(ended)

    async def use() -> None:
        client = AsyncClient(fake.address)
        stream = client.stream("echo", {"X": [1]})
        await anext(stream)
        if way == "cancel":
            stream.cancel()
            with pytest.raises(InferenceError, match="CANCELLED"):
                await anext(stream)
        elif way == "leave":
            async with stream:
                pass
        elif way == "close the client":
            await client.close()
        del stream
        assert await asyncio.to_thread(ended.wait, 10)
        await client.close()

    runner.run(use())


def test_a_cancelled_task_cancels_its_call(runner: asyncio.Runner, fake: FakeServer) -> None:
    """Cancelling the task that waits for an answer ends the request in the server."""
    begun, ended = Ended(), Ended()

    def hang(_: bytes, context: Any) -> bytes:
        context.add_callback(ended.set)
        begun.set()
        ended.wait(10)
        return b""

    fake.unary["ModelInfer"] = hang

    async def use() -> None:
        async with AsyncClient(fake.address) as client:
            task = asyncio.create_task(client.infer("echo", {"X": [1]}))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 10)

    runner.run(use())
