"""Both sides of a stream wait for each other, and nobody for a third."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from tests.http2.loops import on_each_loop
from tests.http2.on_loop import channel_to, figure, serve

from penstock.transport.base import Call, Method


@on_each_loop
async def test_many_messages_of_one_write_arrive_in_their_order() -> None:
    """Small, large and empty ones, through windows that are too small for them."""
    sent = [b"%d" % number * (number % 7) for number in range(2000)] + [bytes(300_000), b"", b"end"]

    async def write(messages: AsyncIterator[bytes], call: Call) -> None:
        async for _ in messages:
            await call.write_many(sent)
            await call.write(b"more")

    method = Method("/s/W", stream=write)
    async with serve(method) as (address, _), channel_to(address) as channel:
        stream = channel.stream_stream("/s/W")(iter((b"1", b"2")), timeout=30)
        got = [bytes(one) async for one in stream]

    assert got == [*sent, b"more"] * 2


@on_each_loop
async def test_a_writer_waits_for_its_reader() -> None:
    """And goes on with it."""
    written = 0

    async def flood(messages: AsyncIterator[bytes], call: Call) -> None:
        nonlocal written
        for _ in range(1000):
            await call.write(bytes(65_536))
            written += 1

    method = Method("/s/F", stream=flood)
    async with serve(method) as (address, _), channel_to(address) as channel:
        stream = channel.stream_stream("/s/F")(timeout=30)
        await stream.done_writing()
        first = await stream.read()
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.1)
        got = 1
        while await stream.read() is not grpc.aio.EOF:
            got += 1

    assert len(first) == 65_536
    assert seen < 1000
    assert got == written == 1000


@on_each_loop
async def test_a_writer_that_never_waits_lets_others_have_their_turn() -> None:
    """Room or not: the loop goes round."""
    turns = 0

    async def flood(messages: AsyncIterator[bytes], call: Call) -> None:
        for _ in range(20_000):
            await call.write(b"x")

    method = Method("/s/F", stream=flood)
    async with serve(method) as (address, _), channel_to(address) as channel:
        stream = channel.stream_stream("/s/F")(iter(()), timeout=60)

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count())
        got = [one async for one in stream]
        counting.cancel()

    assert len(got) == 20_000
    assert turns > 20


@on_each_loop
async def test_a_caller_waits_for_a_handler_that_does_not_read() -> None:
    """It may send a window's worth and no more, until the handler reads on."""
    go, taken = asyncio.Event(), 0

    async def slow(messages: AsyncIterator[bytes], call: Call) -> None:
        nonlocal taken
        await go.wait()
        async for one in messages:
            taken += len(one)
        await call.write(b"%d" % taken)

    method = Method("/s/R", stream=slow)
    async with serve(method) as (address, transport), channel_to(address) as channel:
        stream = channel.stream_stream("/s/R")(timeout=30)

        async def send() -> None:
            for _ in range(400):
                await stream.write(bytes(50_000))
            await stream.done_writing()

        sending = asyncio.ensure_future(send())
        seen = -1.0
        while seen != figure(transport, "penstock_http2_received_bytes_total"):
            seen = figure(transport, "penstock_http2_received_bytes_total")
            await asyncio.sleep(0.1)
        go.set()
        await sending
        reply = await stream.read()

    assert seen < 3 << 20
    assert reply == b"%d" % (400 * 50_000)
