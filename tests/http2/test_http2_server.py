"""Calls over the HTTP/2 transport as handlers and clients see them, on each kind of loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.http2.frames import Setting, Type, block, data, headers, message, window_update
from tests.http2.loops import on_each_loop
from tests.http2.raw import RawClient, eventually, request_fields
from tests.http2.service import Serving, serving

from penstock.status import Answer
from penstock.transport.base import Buffer, Call, Method, QuickCall
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport
from penstock_runtime.errors import Status

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


# -- quick calls ---------------------------------------------------------------------------------


@on_each_loop
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("size", [0, 16, 100_000, 5 << 20])
async def test_a_quick_call_is_answered_without_a_task(later: bool, size: int) -> None:
    """At once or a turn later, in pieces that follow each other."""
    tasks: list[int] = []

    def submit(data: Buffer, call: QuickCall) -> None:
        tasks.append(len(asyncio.all_tasks()))
        half = len(data) // 2
        reply = (b"<", data[:half], memoryview(data)[half:], b">")
        if later:
            asyncio.get_running_loop().call_soon(call.reply, reply)
        else:
            call.reply(reply)

    async with serve(Method("/s/Q", submit=submit)) as (address, _), channel_to(address) as channel:
        method = channel.unary_unary("/s/Q")
        before = len(asyncio.all_tasks())
        replies = [await method(bytes(size), timeout=30) for _ in range(3)]

    assert replies == [b"<" + bytes(size) + b">"] * 3
    assert max(tasks) <= before + 2


@on_each_loop
async def test_a_quick_call_ends_once_whoever_ends_it() -> None:
    """A reply after the caller left, and whatever follows the first answer, is nothing."""
    calls: list[QuickCall] = []
    told: list[str] = []

    def submit(data: Buffer, call: QuickCall) -> None:
        calls.append(call)
        call.on_cancel = lambda: told.append(bytes(data).decode())

    async with serve(Method("/s/Q", submit=submit)) as (address, _), channel_to(address) as channel:
        method = channel.unary_unary("/s/Q")
        left = method(b"left", timeout=30)
        late = method(b"late", timeout=0.2)
        answered = method(b"answered", timeout=30)
        await until(lambda: len(calls) == 3)
        left.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await late
        await until(lambda: len(told) == 2)
        for call in calls:
            call.reply(b"reply")
        reply = await answered
        calls[-1].refuse(Answer(Status.INTERNAL, "never seen"))

    assert reply == b"reply"
    assert sorted(told) == ["late", "left"]
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_disconnect_cancels_every_call() -> None:
    """Quick ones and tasks alike; nothing is left of them."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        for stream, path in ((1, "/q/Hang"), (3, "/s/Hang"), (5, "/s/HangStream")):
            client.request(stream, b"", path)
        eventually(lambda: served.service.inside == 3, "all handlers wait")
        client.close()

        eventually(lambda: served.service.cancelled == 3, "all handlers are told")
        assert served.service.inside == 0
        eventually(lambda: served.tasks() == 1, "no task is left")


# -- what handlers may do ------------------------------------------------------------------------


@on_each_loop
async def test_an_unexpected_error_is_unknown_as_in_grpcio(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever kind of handler raised it; the log has it."""

    async def unary(data: bytes, call: Call) -> bytes:
        raise ValueError("nö")

    async def stream(messages: AsyncIterator[bytes], call: Call) -> None:
        raise ValueError("nö")

    def submit(data: Buffer, call: QuickCall) -> None:
        raise ValueError("nö")

    methods = (
        Method("/s/U", unary=unary),
        Method("/s/S", stream=stream),
        Method("/s/Q", submit=submit),
    )
    async with serve(*methods) as (address, _), channel_to(address) as channel:
        for path in ("/s/U", "/s/S", "/s/Q"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(path)(b"", timeout=20)

            assert error.value.code() is grpc.StatusCode.UNKNOWN
            assert error.value.details() == "Unexpected <class 'ValueError'>: nö"
    assert len([record for record in caplog.records if record.exc_info]) == 3


@on_each_loop
async def test_a_handler_that_cancels_itself_answers_cancelled() -> None:
    """Nobody waits for ever."""

    async def unary(data: bytes, call: Call) -> bytes:
        raise asyncio.CancelledError

    async with (
        serve(Method("/s/U", unary=unary)) as (address, _),
        channel_to(address) as channel,
    ):
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await channel.unary_unary("/s/U")(b"", timeout=20)


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


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/s/Hang", "/s/HangStream", "/q/Hang"])
def test_the_server_answers_late_calls_itself(path: str) -> None:
    """For callers that do not count the time; the handler is told."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"", path, (b"grpc-timeout", b"50m"))
        answer = client.answer(1)

        assert (answer.status, answer.text) == (4, "Deadline Exceeded")
        eventually(lambda: served.service.cancelled == 1, "the handler is told")


@pytest.mark.parametrize("path", ["/s/Echo", "/q/Echo"])
def test_a_deadline_of_nothing_has_passed_on_arrival(path: str) -> None:
    """The handler does not even begin."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        client.request(1, b"", path, (b"grpc-timeout", b"0n"))

        assert client.answer(1).status == 4
        assert not served.service.called


def test_a_request_whose_end_does_not_come_in_time_is_late_as_well() -> None:
    """Half a message, and a message without an end."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        late = block(request_fields("/s/Echo", (b"grpc-timeout", b"50m")))
        client.send(headers(1, late), data(1, message(bytes(100))[:50]))
        client.send(headers(3, late))
        client.send(data(3, message(b"x")))

        assert [client.answer(stream).status for stream in (1, 3)] == [4, 4]
        assert not served.service.called


# -- shapes of requests --------------------------------------------------------------------------


@pytest.mark.parametrize("bodies", [(), (b"1", b"2")])
def test_a_unary_call_has_exactly_one_message(bodies: Sequence[bytes]) -> None:
    """UNIMPLEMENTED, as gRPC's list of statuses says."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        body = b"".join(map(message, bodies))
        client.send(headers(1, block(request_fields("/s/Echo"))), data(1, body, end=True))

        assert client.answer(1).status == 12
        assert not served.service.called


@pytest.mark.parametrize("path", ["/s/Echo", "/q/Echo"])
def test_the_end_of_a_request_may_come_by_itself(path: str) -> None:
    """As some clients send it: an empty DATA frame behind the message."""
    with serving() as served, RawClient(served.address) as client:
        client.start()
        client.send(headers(1, block(request_fields(path))), data(1, message(b"x")))
        client.fence()
        client.send(data(1, end=True))

        assert client.answer(1).messages == [b"x"]


def test_limits_are_told_to_the_peer() -> None:
    """SETTINGS say how many calls may be open; those beyond are refused."""
    with serving(max_concurrent_streams=2) as served, RawClient(served.address) as client:
        client.start()
        for stream in (1, 3, 5):
            client.request(stream, b"", "/q/Hang")

        assert client.peer_settings[Setting.MAX_CONCURRENT_STREAMS] == 2
        assert client.answer(5).reset == 7


@on_each_loop
@pytest.mark.parametrize("kind", ["submit", "unary"])
async def test_calls_beyond_the_limit_are_refused_whatever_their_kind(kind: str) -> None:
    """Those that ended, by an answer or by their caller, count no more."""
    calls: list[QuickCall] = []

    def submit(data: Buffer, call: QuickCall) -> None:
        calls.append(call)

    async def unary(data: bytes, call: Call) -> bytes:
        await asyncio.Event().wait()
        return b""

    handler: Any = {"submit": submit, "unary": unary}[kind]
    method = Method("/s/H", **{kind: handler})
    options = {"max_concurrent_rpcs": 2}
    async with serve(method, **options) as (address, transport), channel_to(address) as channel:
        ask = channel.unary_unary("/s/H")
        for _ in range(3):
            inside = [ask(b"", timeout=30) for _ in range(2)]
            await until(lambda: figure(transport, "penstock_http2_streams") == 2)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await ask(b"", timeout=30)
            for call in inside:
                call.cancel()
            await until(lambda: figure(transport, "penstock_http2_streams") == 0)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.value.details() == "Concurrent RPC limit exceeded!"


# -- addresses -----------------------------------------------------------------------------------


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


# -- compression ---------------------------------------------------------------------------------


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


# -- the end -------------------------------------------------------------------------------------


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


# -- figures -------------------------------------------------------------------------------------


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
