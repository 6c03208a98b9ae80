"""Where the HTTP/2 transport listens, how it stops, and what it tells of itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.http2.frames import Type
from tests.http2.loops import on_each_loop
from tests.http2.on_loop import channel_to, echo, figure, serve, until
from tests.http2.raw import Answer, RawClient, eventually
from tests.http2.service import Serving, serving

from penstock.transport.base import Buffer, Call, Method, QuickCall
from penstock.transport.http2.hub import Hub
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.protocol import ServerProtocol
from penstock.transport.http2.server import Http2Transport


@on_each_loop
@pytest.mark.parametrize(
    ("address", "start"),
    [
        ("127.0.0.1:0", "ipv4:127.0.0.1:"),
        ("[::1]:0", "ipv6:%5B::1%5D:"),
        ("[::]:0", "ipv4:127.0.0.1:"),
        ("localhost:0", "ipv"),
        ("unix", "unix:"),
    ],
)
async def test_peers_are_named_as_grpc_names_them(address: str, start: str, tmp_path: Path) -> None:
    """And every kind of address is served, with its real port."""

    async def peer(data: bytes, call: Call) -> bytes:
        return call.peer.encode()

    asked = f"unix:{tmp_path / 's'}" if address == "unix" else address
    async with serve(Method("/s/P", unary=peer), addresses=(asked,)) as (bound, _):
        target = bound.replace("[::]", "127.0.0.1")
        async with channel_to(target) as channel:
            reply = await channel.unary_unary("/s/P")(b"", timeout=20)

    assert reply.decode().startswith(start)
    assert not bound.endswith(":0")
    assert not (tmp_path / "s").exists()


@on_each_loop
async def test_a_port_may_be_shared_by_servers_that_ask_for_it() -> None:
    """With --reuse-grpc-port."""
    method = Method("/s/E", unary=echo)
    async with (
        serve(method, reuse_port=True) as (address, _),
        serve(method, reuse_port=True, addresses=(address,)) as (same, _),
    ):
        assert same == address


@on_each_loop
async def test_a_stop_lets_calls_end_within_its_grace() -> None:
    """New connections find no port meanwhile, and the old ones end by themselves."""
    release = asyncio.Event()

    async def hold(data: bytes, call: Call) -> bytes:
        await release.wait()
        return bytes(data)

    async with (
        serve(Method("/s/H", unary=hold)) as (address, transport),
        channel_to(address) as channel,
    ):
        inside = channel.unary_unary("/s/H")(b"1", timeout=30)
        await until(lambda: figure(transport, "penstock_http2_streams") == 1)
        stopping = asyncio.ensure_future(transport.stop(20))
        await until(lambda: figure(transport, "penstock_http2_goaways_total") == 1)
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
        release.set()
        began = time.monotonic()
        assert await inside == b"1"
        await stopping

    assert time.monotonic() - began < 10


@on_each_loop
@pytest.mark.parametrize("grace_s", [0, 0.1])
async def test_a_stop_cuts_off_what_its_grace_leaves(grace_s: float) -> None:
    """The caller gets UNAVAILABLE, the handlers are cancelled, no task is left."""
    cleaned = 0

    async def hang(data: bytes, call: Call) -> bytes:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            cleaned += 1
        return b""

    async def hang_stream(messages: AsyncIterator[bytes], call: Call) -> None:
        await hang(b"", call)

    def told() -> None:
        nonlocal cleaned
        cleaned += 1

    def submit(data: Buffer, call: QuickCall) -> None:
        call.on_cancel = told

    methods = (
        Method("/s/U", unary=hang),
        Method("/s/S", stream=hang_stream),
        Method("/s/Q", submit=submit),
    )
    async with serve(*methods) as (address, transport), channel_to(address) as channel:
        before = asyncio.all_tasks()
        calls = [
            channel.unary_unary("/s/U")(b"", timeout=30),
            channel.stream_stream("/s/S")(timeout=30),
            channel.unary_unary("/s/Q")(b"", timeout=30),
        ]
        await until(lambda: figure(transport, "penstock_http2_streams") == 3)
        await transport.stop(grace_s)
        codes = [await call.code() for call in calls]
        served = [one for one in asyncio.all_tasks() - before if "serve" in repr(one)]

    assert codes == [grpc.StatusCode.UNAVAILABLE] * 3
    assert cleaned == 3
    assert served == []


@on_each_loop
async def test_a_stop_ends_idle_connections_politely() -> None:
    """Well within its grace."""
    async with (
        serve(Method("/s/E", unary=echo)) as (address, transport),
        channel_to(address) as channel,
    ):
        await channel.unary_unary("/s/E")(b"", timeout=20)
        began = time.monotonic()
        await transport.stop(30)

    assert time.monotonic() - began < 10
    assert figure(transport, "penstock_http2_connections") == 0


@on_each_loop
async def test_a_successor_may_have_the_unix_socket_while_calls_still_end(tmp_path: Path) -> None:
    """Whoever binds the path after us keeps its file."""
    address = f"unix:{tmp_path / 's'}"
    release = asyncio.Event()

    async def hold(data: bytes, call: Call) -> bytes:
        await release.wait()
        return bytes(data)

    async with (
        serve(Method("/s/H", unary=hold), addresses=(address,)) as (_, first),
        channel_to(address) as channel,
    ):
        inside = channel.unary_unary("/s/H")(b"1", timeout=30)
        await until(lambda: figure(first, "penstock_http2_streams") == 1)
        turning_away, turn_away = asyncio.Event(), first._hub.turn_away  # type: ignore[union-attr]

        async def slowly() -> None:
            await turning_away.wait()
            await turn_away()

        first._hub.turn_away = slowly  # type: ignore[union-attr,method-assign]
        stopping = asyncio.ensure_future(first.stop(20))
        await asyncio.sleep(0)
        async with serve(Method("/s/E", unary=echo), addresses=(address,)):
            turning_away.set()
            release.set()
            await stopping
            answer = await asyncio.to_thread(called, address)
        assert await inside == b"1"

    assert answer.messages == [b"2"]


def called(address: str) -> Answer:
    """A call over a connection of its own."""
    with RawClient(address) as client:
        client.start()
        client.request(1, b"2", "/s/E")
        return client.answer(1)


@contextmanager
def conversation(served: Serving) -> Iterator[RawClient]:
    with RawClient(served.address) as client:
        client.start()
        assert client.call(1, b"x").messages == [b"x"]
        yield client


def test_figures_tell_of_connections_streams_and_bytes() -> None:
    """Of those that are open and of those that are gone."""
    with serving() as served:
        transport = served.transport
        assert isinstance(transport, Http2Transport)
        with conversation(served):
            pass
        with conversation(served) as client:
            client.request(3, b"", "/q/Hang")
            client.fence()
            eventually(lambda: figure(transport, "penstock_http2_connections") == 1, "one is gone")

            assert figure(transport, "penstock_http2_connections_total") == 2
            assert figure(transport, "penstock_http2_streams") == 1
            received = figure(transport, "penstock_http2_received_bytes_total")
            sent = figure(transport, "penstock_http2_sent_bytes_total")
            seen = sum(len(one.payload) + 9 for one in client.seen if one.type in set(Type))
            assert received > 200
            assert sent >= 2 * seen - 17 - 64


@pytest.mark.asyncio
async def test_a_connection_that_is_taken_in_is_counted_once() -> None:
    """With one of two seats taken there is room, in whatever state the connection is."""
    hub = Hub((), Http2Options(("127.0.0.1:0",)), Limits(), cap=2)
    connection, made, done = ServerProtocol(hub), asyncio.Event(), asyncio.Event()

    async def taking() -> None:
        await made.wait()
        hub.watch(connection)
        await done.wait()

    seen = [hub.is_full]
    hub.arrive(connection, taking())
    for event in (made, done):
        seen.append(hub.is_full)
        event.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    seen.append(hub.is_full)
    hub.close()

    assert seen == [False] * 4
    assert len(hub.connections) == 1


class FullSocket(asyncio.Transport):
    """Takes nothing for now; remembers how it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Let it go."""

    def writelines(self, list_of_data: Any) -> None:
        """Let them go."""

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.ended = True


@pytest.mark.asyncio
async def test_a_connection_is_not_ended_while_its_socket_tells_of_room() -> None:
    """asyncio's transports would tell of the end twice; it comes right after."""
    hub = Hub((), Http2Options(("127.0.0.1:0",)), Limits(), cap=2)
    connection, transport = ServerProtocol(hub), FullSocket()
    connection.connection_made(transport)
    connection.pause_writing()
    connection.close(0, "enough")

    connection.resume_writing()
    at_once = transport.ended
    await asyncio.sleep(0)

    assert (at_once, transport.ended) == (False, True)
    hub.close()
