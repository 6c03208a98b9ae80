"""Answers are compressed where the server wants it and the caller accepts it."""

import pytest
from tests.http2.frames import Setting, window_update
from tests.http2.loops import on_each_loop
from tests.http2.on_loop import channel_to, echo, serve
from tests.http2.raw import RawClient
from tests.http2.service import serving

from penstock.transport.base import Method


@pytest.mark.parametrize("level", ["none", "low", "high"])
@pytest.mark.parametrize("path", ["/s/Echo", "/q/Echo", "/s/Double"])
@pytest.mark.parametrize("size", [10, 5_000, 300_000])
def test_answers_are_compressed_for_those_who_accept_it(level: str, path: str, size: int) -> None:
    """And only at a level above none, and where it pays."""
    accept = (b"grpc-accept-encoding", b"identity, gzip")
    with serving(compression_level=level) as served, RawClient(served.address) as client:
        client.start((Setting.INITIAL_WINDOW_SIZE, 1 << 24))
        client.send(window_update(0, 1 << 24))
        client.request(1, bytes(size), path, accept)
        client.request(3, bytes(size), path)
        asked, plain = client.answer(1), client.answer(3)

    assert asked.head is not None
    shorter = level != "none" and size > 10
    assert (asked.head.get("grpc-encoding") == "gzip") is (
        shorter or (level != "none" and path == "/s/Double")
    )
    assert (len(asked.body) < len(plain.body)) is shorter
    assert asked.body[0] == shorter
    assert plain.body[0] == 0


@on_each_loop
async def test_compressed_answers_are_read_by_grpcs_clients() -> None:
    """Whatever their size."""
    async with (
        serve(Method("/s/E", unary=echo), compression_level="medium") as (address, _),
        channel_to(address) as channel,
    ):
        for size in (0, 1500, 70_000, 3 << 20):
            assert await channel.unary_unary("/s/E")(bytes(size), timeout=30) == bytes(size)
