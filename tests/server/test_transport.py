"""Every transport carries bytes, statuses, deadlines and cancellations, and nothing else."""

import ast
import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest
from tests.http2.raw import RawClient

from penstock.status import Answer
from penstock.transport.addresses import listen_addresses
from penstock.transport.base import Call, Method, Refusal, Transport
from penstock.transport.grpcio import GrpcioOptions, GrpcioTransport
from penstock.transport.http2.grpc_timeout import LONGEST_NS
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport
from penstock_runtime.errors import FailedPrecondition, ResourceExhausted, Status

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
NO_SUCH_THING = Answer(Status.NOT_FOUND, "no such thing: 'ä'", (("grpc-retry-pushback-ms", "7"),))


async def echo(data: bytes, call: Call) -> bytes:
    """Answers what it got."""
    return data


async def describe(data: bytes, call: Call) -> bytes:
    """Answers what it knows of the call."""
    call.set_trailing_metadata((("bye", "now"),))
    left = None if call.deadline_ns is None else (call.deadline_ns - time.monotonic_ns()) / 1e9
    return repr((call.method, call.peer.split(":")[0], call.metadata.get("x-a"), left)).encode()


async def refuse(data: bytes, call: Call) -> bytes:
    """Refuses."""
    raise Refusal(NO_SUCH_THING)


async def double(messages: AsyncIterator[bytes], call: Call) -> None:
    """Answers every message twice."""
    async for data in messages:
        await call.write(data)
        await call.write(data)


async def refuse_stream(messages: AsyncIterator[bytes], call: Call) -> None:
    """Answers once and then refuses."""
    await call.write(b"first")
    raise Refusal(NO_SUCH_THING)


METHODS = (
    Method("/s/Echo", unary=echo),
    Method("/s/Describe", unary=describe),
    Method("/s/Refuse", unary=refuse),
    Method("/s/Double", stream=double),
    Method("/s/RefuseStream", stream=refuse_stream),
)


class Serve(Protocol):
    """Serves methods for the time of a block."""

    def __call__(
        self, *methods: Method, addresses: tuple[str, ...] = ("127.0.0.1:0",), **options: Any
    ) -> AbstractAsyncContextManager[Sequence[str]]:
        """The addresses that are served; those of this module without any methods."""


@pytest.fixture(params=["grpcio", "http2"])
def serving(request: pytest.FixtureRequest) -> Serve:
    """A transport of each kind."""

    @asynccontextmanager
    async def serve(
        *methods: Method, addresses: tuple[str, ...] = ("127.0.0.1:0",), **options: Any
    ) -> AsyncIterator[Sequence[str]]:
        served = methods or METHODS
        transport: Transport
        if request.param == "grpcio":
            transport = GrpcioTransport(served, GrpcioOptions(addresses, **options))
        else:
            transport = Http2Transport(served, Http2Options(addresses, **options))
        try:
            yield await transport.start()
        finally:
            await transport.stop(0)

    return serve


@asynccontextmanager
async def channel_to(address: str, **more: Any) -> AsyncIterator[grpc.aio.Channel]:
    """A client's channel."""
    async with grpc.aio.insecure_channel(address, options=UNLIMITED, **more) as channel:
        yield channel


async def read_all(call: Any, got: list[bytes]) -> None:
    """Read a stream to its end, into `got`."""
    while (data := await call.read()) is not grpc.aio.EOF:
        got.append(data)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1, 100_000, 8 << 20])
async def test_bytes_come_back_as_they_went(serving: Serve, size: int) -> None:
    """Empty, small, and far above gRPC's usual limit of 4 MiB."""
    data = bytes(size)
    async with serving() as (address,), channel_to(address) as channel:
        reply = await channel.unary_unary("/s/Echo")(data, timeout=30)

    assert reply == data


@pytest.mark.asyncio
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("level", ["none", "high"])
async def test_compression_is_the_clients_choice(
    serving: Serve, compression: Any, level: str
) -> None:
    """gzip and deflate are understood, whether or not replies are compressed."""
    data = b"abc" * 100_000
    async with serving(compression_level=level) as (address,), channel_to(address) as channel:
        call = channel.unary_unary("/s/Echo")(data, timeout=30, compression=compression)
        reply = await call

    assert reply == data


@pytest.mark.asyncio
async def test_a_call_knows_its_method_peer_metadata_and_deadline(serving: Serve) -> None:
    """And its trailing metadata reaches the client."""
    async with serving() as (address,), channel_to(address) as channel:
        method = channel.unary_unary("/s/Describe")
        call = method(b"", timeout=30, metadata=(("x-a", "1"), ("x-bin", b"\x00")))
        name, peer, metadata, left = eval(await call)
        trailing = dict(await call.trailing_metadata())
        without = eval(await method(b""))

    assert (name, peer, metadata, trailing["bye"]) == ("/s/Describe", "ipv4", "1", "now")
    # gRPC rounds a deadline up on its way.
    assert 0 < left < 31
    assert without[3] is None


@pytest.mark.asyncio
async def test_a_deadline_beyond_a_year_is_a_year(serving: Serve) -> None:
    """The protocol can say eleven thousand years, but no clock and no lock can."""

    def left(address: str) -> float:
        with RawClient(address) as client:
            client.start()
            client.request(1, b"", "/s/Describe", (b"grpc-timeout", b"99999999H"))
            (known,) = client.answer(1).messages
            return float(ast.literal_eval(known.decode())[3])

    async with serving() as (address,):
        left_s = await asyncio.to_thread(left, address)

    assert left_s == pytest.approx(LONGEST_NS / 1e9, abs=60)


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_status_with_text_and_metadata(serving: Serve, stream: bool) -> None:
    """Code, text (any language) and trailing metadata arrive; a stream keeps what it said."""
    got: list[bytes] = []
    async with serving() as (address,), channel_to(address) as channel:
        unary, streaming = (
            channel.unary_unary("/s/Refuse"),
            channel.stream_stream("/s/RefuseStream"),
        )
        asking = read_all(streaming(iter(())), got) if stream else unary(b"", timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asking

    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "no such thing: 'ä'"
    assert dict(error.value.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "7"
    assert got == ([b"first"] if stream else [])


@pytest.mark.asyncio
async def test_a_method_that_is_not_there_is_unimplemented(serving: Serve) -> None:
    """Whatever the service's name."""
    async with serving() as (address,), channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/s/Nothing")(b"", timeout=30)

    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.asyncio
async def test_both_sides_of_a_stream_talk_as_they_like(serving: Serve) -> None:
    """Messages flow both ways, and half-close ends the stream well."""
    async with serving() as (address,), channel_to(address) as channel:
        call = channel.stream_stream("/s/Double")(timeout=30)
        await call.write(b"1")
        first = [await call.read(), await call.read()]
        await call.write(b"2")
        await call.done_writing()
        rest = [await call.read(), await call.read(), await call.read()]
        code = await call.code()

    assert first == [b"1", b"1"]
    assert rest == [b"2", b"2", grpc.aio.EOF]
    assert code is grpc.StatusCode.OK


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_call_cancels_its_handler(serving: Serve, stream: bool) -> None:
    """The handler learns it where it waits, and its cleaning up is done."""
    entered, cleaned = asyncio.Event(), asyncio.Event()

    async def hang(data: bytes, call: Call) -> bytes:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return b""

    async def hang_stream(messages: AsyncIterator[bytes], call: Call) -> None:
        await hang(b"", call)

    methods = Method("/s/Hang", unary=hang), Method("/s/HangStream", stream=hang_stream)
    async with serving(*methods) as (address,), channel_to(address) as channel:
        call = (
            channel.stream_stream("/s/HangStream")(timeout=30)
            if stream
            else channel.unary_unary("/s/Hang")(b"", timeout=30)
        )
        reading = asyncio.ensure_future(call.read() if stream else call)
        await asyncio.wait_for(entered.wait(), 10)
        call.cancel()
        await asyncio.wait((reading,))

        await asyncio.wait_for(cleaned.wait(), 10)


@pytest.mark.asyncio
async def test_a_deadline_that_passes_ends_the_handler(serving: Serve) -> None:
    """The client gets DEADLINE_EXCEEDED and the server works no more."""
    cleaned = asyncio.Event()

    async def hang(data: bytes, call: Call) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()
        return b""

    async with serving(Method("/s/Hang", unary=hang)) as (address,), channel_to(address) as channel:
        await channel.channel_ready()  # the connection is not part of the deadline
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/s/Hang")(b"", timeout=0.3)
        await asyncio.wait_for(cleaned.wait(), 10)

    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.asyncio
async def test_an_aborted_stream_ends_with_its_error_although_the_reader_stalls(
    serving: Serve,
) -> None:
    """A writer that hangs in flow control is interrupted; its handler is closed."""
    cleaned = asyncio.Event()
    written = 0

    async def flood(messages: AsyncIterator[bytes], call: Call) -> None:
        nonlocal written
        try:
            asyncio.get_running_loop().create_task(abort_when_stuck(call))
            while True:
                await call.write(bytes(65536))
                written += 1
        finally:
            cleaned.set()

    async def abort_when_stuck(call: Call) -> None:
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.1)
        call.abort(ResourceExhausted("too slow"))

    method = Method("/s/Flood", stream=flood)
    async with serving(method) as (address,), channel_to(address) as channel:
        call = channel.stream_stream("/s/Flood")(timeout=30)
        await call.read()
        await asyncio.wait_for(cleaned.wait(), 20)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await read_all(call, [])

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.value.details() == "too slow"


@pytest.mark.asyncio
async def test_unix_sockets_and_several_addresses_serve_the_same(
    serving: Serve, tmp_path: Path
) -> None:
    """Each address answers; a socket file that a killed server left is taken over."""
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    addresses = ("127.0.0.1:0", f"unix:{path}")

    async with serving(addresses=addresses) as bound:
        for address in bound:
            async with channel_to(address) as channel:
                assert await channel.unary_unary("/s/Echo")(b"x", timeout=30) == b"x"


@pytest.mark.asyncio
async def test_a_port_in_use_is_told_in_plain_words(serving: Serve) -> None:
    """The port, and the flag that chooses another; nothing is shared by accident."""
    async with serving() as (address,):
        port = address.rpartition(":")[2]
        with pytest.raises(
            FailedPrecondition, match=f"port {port} on 127.0.0.1 is in use.*--grpc-port"
        ):
            async with serving(addresses=(address,)):
                pass


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("no.such.host.invalid:0", "a host of this machine"),
        ("203.0.113.7:0", "not an address of this machine"),
        ("unix:/no/such/directory/s", "directory"),
    ],
)
async def test_an_address_that_cannot_be_had_is_explained(
    serving: Serve, address: str, part: str
) -> None:
    """The message says what is wrong with the address."""
    with pytest.raises(FailedPrecondition, match=part):
        async with serving(addresses=(address,)):
            pass


@pytest.mark.asyncio
async def test_more_calls_than_allowed_are_refused_at_once(serving: Serve) -> None:
    """RESOURCE_EXHAUSTED, while those inside go on."""
    release, entered = asyncio.Event(), asyncio.Event()

    async def hold(data: bytes, call: Call) -> bytes:
        entered.set()
        await release.wait()
        return data

    method = Method("/s/Hold", unary=hold)
    async with (
        serving(method, max_concurrent_rpcs=1) as (address,),
        channel_to(address) as channel,
    ):
        inside = asyncio.ensure_future(channel.unary_unary("/s/Hold")(b"1", timeout=30))
        await asyncio.wait_for(entered.wait(), 10)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary("/s/Hold")(b"2", timeout=30)
        release.set()
        reply = await inside

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reply == b"1"


def test_options_are_passed_in_grpcs_own_words() -> None:
    """Every option of Triton's has its channel argument; 0 leaves a limit out."""
    told = dict(GrpcioOptions(("a:1",), max_connection_age_ms=5).channel_arguments())

    assert told["grpc.keepalive_time_ms"] == 7_200_000
    assert told["grpc.http2.min_ping_interval_without_data_ms"] == 300_000
    assert told["grpc.max_connection_age_ms"] == 5
    assert told["grpc.max_receive_message_length"] == -1
    assert told["grpc.so_reuseport"] == 0
    assert "grpc.max_concurrent_streams" not in told


def test_addresses_get_the_port_where_they_have_none() -> None:
    """Hosts, IPv6, sockets and addresses that are complete."""
    hosts = ("0.0.0.0", "127.0.0.1:5", "::1", "[::1]", "[::1]:5", "unix:/s", " host ")

    assert listen_addresses(hosts, 8001) == (
        "0.0.0.0:8001",
        "127.0.0.1:5",
        "[::1]:8001",
        "[::1]:8001",
        "[::1]:5",
        "unix:/s",
        "host:8001",
    )
