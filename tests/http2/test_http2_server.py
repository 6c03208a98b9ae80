"""Calls over the HTTP/2 transport as handlers and clients see them, on each kind of loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.http2.frames import Setting, block, data, headers, message
from tests.http2.loops import on_each_loop
from tests.http2.on_loop import channel_to, figure, serve, until
from tests.http2.raw import RawClient, eventually, request_fields
from tests.http2.service import serving

from penstock.status import Answer
from penstock.transport.base import Buffer, Call, Method, QuickCall, Refusal
from penstock_runtime.errors import Status


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
        await channel.channel_ready()  # the connection is not part of the deadline
        left = method(b"left", timeout=30)
        late = method(b"late", timeout=0.5)
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
async def test_a_refusal_that_cannot_be_sent_is_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With trailing metadata that gRPC forbids; the call ends all the same, and the log has it."""
    answer = Answer(Status.NOT_FOUND, "no such thing", (("Capitals", "are forbidden"),))

    async def unary(data: bytes, call: Call) -> bytes:
        raise Refusal(answer)

    async def stream(messages: AsyncIterator[bytes], call: Call) -> None:
        await call.write(b"first")
        raise Refusal(answer)

    def submit(data: Buffer, call: QuickCall) -> None:
        asyncio.get_running_loop().call_soon(call.refuse, answer)

    methods = (
        Method("/s/U", unary=unary),
        Method("/s/S", stream=stream),
        Method("/s/Q", submit=submit),
    )
    async with serve(*methods) as (address, _), channel_to(address) as channel:
        for path in ("/s/U", "/s/S", "/s/Q"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(path)(b"", timeout=5)

            assert error.value.code() is grpc.StatusCode.INTERNAL
            assert "'Capitals'" in str(error.value.details())
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
