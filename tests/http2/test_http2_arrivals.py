"""The memory of large messages is bounded over all connections, and comes back."""

import asyncio
import gzip
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from tests.http2.attacks import odd
from tests.http2.frames import Setting, block, data, headers, window_update
from tests.http2.frames import message as framed
from tests.http2.raw import RawClient, request_fields
from tests.http2.service import serving

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


@pytest.mark.parametrize("path", ["/s/Echo", "/q/Echo"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_memory_of_large_messages_comes_back_whatever_read_brought_them(
    path: str, encoding: str
) -> None:
    """Sent in one piece, so that head, message and end come in one read where they can."""
    head = block(request_fields(path, (b"grpc-encoding", encoding.encode())))
    with serving() as served, RawClient(served.address) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, 1 << 20))
        client.send(window_update(0, 1 << 20))
        for stream, size in zip(odd(5), (65_537, 70_000, 130_000, 200_000, 300_000), strict=True):
            message = bytes(size)
            body = framed(gzip.compress(message), 1) if encoding == "gzip" else framed(message)
            client.send(headers(stream, head) + data(stream, body, end=True))

            assert client.answer(stream).messages == [message]
            assert served.figure("penstock_http2_arriving_bytes") == 0


def test_requests_that_inflate_do_not_use_up_the_memory_of_others() -> None:
    """Any client may send many times `max_arriving_bytes` in total, one after the other."""
    message = bytes(100_000)
    with (
        serving(max_arriving_bytes=1 << 18) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        call = channel.unary_unary("/s/Echo")
        for _ in range(20):
            assert call(message, compression=grpc.Compression.Gzip) == message


@pytest.mark.parametrize("path", ["/s/BreakStream", "/s/Count", "/s/RefuseStream"])
def test_messages_that_a_handler_left_unread_are_given_back(path: str) -> None:
    """However it ended: it broke, returned or refused, with some of them in its inbox."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        large = framed(bytes(70_000))
        client.send(headers(1, block(request_fields(path))))
        client.send(data(1, framed(b"1") + large + large))

        assert client.answer(1).final
        assert served.figure("penstock_http2_arriving_bytes") == 0
