"""A transport on the loop of the test itself, and clients of grpc.aio's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from penstock.transport.base import Call, Method
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def serve(*methods: Method, **options: Any) -> AsyncIterator[tuple[str, Http2Transport]]:
    """A transport on the running loop, and its address."""
    options.setdefault("addresses", ("127.0.0.1:0",))
    transport = Http2Transport(methods, Http2Options(**options))
    try:
        yield (await transport.start())[0], transport
    finally:
        await transport.stop(0)


@asynccontextmanager
async def channel_to(address: str, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address, options=UNLIMITED, **more) as channel:
        yield channel


async def echo(data: bytes, call: Call) -> bytes:
    return bytes(data)


def figure(transport: Http2Transport, name: str) -> float:
    return sum(
        sample.value
        for family in transport.families()
        for sample in family.samples
        if name in (family.name, sample.labels.get("name"))
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what other tasks of this loop do."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)
