"""The memory of large messages is bounded over all connections, and comes back."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from penstock.transport.base import Buffer, Call, Method
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport

BIG = 300_000


async def count(data: Buffer, call: Call) -> bytes:
    """The size of a message."""
    return str(len(data)).encode()


async def hold(messages: AsyncIterator[Buffer], call: Call) -> None:
    """Reads nothing until it is told to."""
    await RELEASE.wait()
    async for message in messages:
        await call.write(str(len(message)).encode())


RELEASE = asyncio.Event()
METHODS = (Method("/t/Count", unary=count), Method("/t/Hold", stream=hold))


def arriving(transport: Http2Transport) -> float:
    """What a scrape says of large messages."""
    families = {family.name: family for family in transport.families()}
    return families["penstock_http2_arriving_bytes"].samples[0].value


@pytest.mark.asyncio
async def test_large_messages_are_counted_until_they_are_read() -> None:
    """Unary and streamed ones, read or dropped with their call; beyond the limit they are refused,
    but for one that is alone.
    """
    RELEASE.clear()
    options = Http2Options(("127.0.0.1:0",), max_arriving_bytes=2 * BIG)
    transport = Http2Transport(METHODS, options)
    (address,) = await transport.start()
    async with grpc.aio.insecure_channel(address) as channel:
        unary = channel.unary_unary("/t/Count")
        assert await unary(bytes(BIG)) == b"300000"
        assert await unary(bytes(4 * BIG)) == b"1200000"
        assert arriving(transport) == 0
        calls = [channel.stream_stream("/t/Hold")() for _ in range(2)]
        for call in calls:
            await call.write(bytes(BIG))
        while arriving(transport) < 2 * BIG:
            await asyncio.sleep(0.01)

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(bytes(BIG))
        small = await unary(b"123")
        calls[0].cancel()
        while arriving(transport) > BIG:
            await asyncio.sleep(0.01)
        RELEASE.set()
        read = await calls[1].read()
        await calls[1].done_writing()

        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (small, read) == (b"3", b"300000")
        assert arriving(transport) == 0
    await transport.stop(0)
