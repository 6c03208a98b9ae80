"""A server goes down in order: unready, closed, empty, gone; and it loses nothing it accepted."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.fakes_server import FakeCall, Messages, Streaming

from penstock.drain import StopRequest, drain
from penstock.interceptors import SHUTTING_DOWN, Gate, Guard, Watch
from penstock.rpc import Category, Kind, Rpc
from penstock.transport.base import Call, Refusal
from penstock_runtime.errors import InvalidArgument, Status, Unavailable

INFER = Rpc("s", "Infer", Category.INFERENCE, "infer")
STREAM = Rpc("s", "Stream", Category.INFERENCE, "stream", Kind.STREAM)
CHECK = Rpc("s", "Check", Category.HEALTH, "check")


class Diary:
    """Core, probes and transport in one: writes down what happens, and when."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.events: list[str] = []
        self.open_sequences = 0

    def begin_shutdown(self) -> None:
        self.events.append("core unready")

    def begin_drain(self) -> None:
        self.events.append("no sequence starts")

    def drain(self) -> None:
        self.events.append("probes unready")

    def close(self) -> None:
        self.events.append("watches end")

    async def stop(self, grace_s: float) -> None:
        state = "closed" if self.gate.closed else "open"
        self.events.append(f"transport stops, gate {state}, {self.gate.inflight} inside")


async def drained(
    request: StopRequest, gate: Gate, timeout_s: float = 5.0, diary: Diary | None = None
) -> tuple[bool, Diary]:
    """The whole way down."""
    diary = diary or Diary(gate)
    clean = await drain(
        request, core=diary, probes=diary, gate=gate, transport=diary, exit_timeout_s=timeout_s
    )
    return clean, diary


@pytest.mark.asyncio
async def test_an_idle_server_goes_down_at_once_and_in_order() -> None:
    """Readiness first, the gate next, the transport last."""
    gate = Gate()

    clean, diary = await drained(StopRequest(), gate)

    assert clean
    assert diary.events == [
        "core unready",
        "probes unready",
        "no sequence starts",
        "watches end",
        "transport stops, gate closed, 0 inside",
    ]


@pytest.mark.asyncio
async def test_the_gate_stays_open_until_the_sequences_that_run_have_had_their_end() -> None:
    """Each of their requests is a call of its own."""
    gate = Gate()
    diary = Diary(gate)
    diary.open_sequences = 1
    going = asyncio.ensure_future(drained(StopRequest(), gate, diary=diary))
    while "probes unready" not in diary.events:
        await asyncio.sleep(0)
    was_closed = gate.closed

    diary.open_sequences = 0
    clean, _ = await going

    assert (was_closed, gate.closed, clean) == (False, True, True)


@pytest.mark.asyncio
async def test_sequences_without_an_end_are_not_waited_for_longer_than_the_rest() -> None:
    """The exit time-out bounds both together."""
    gate = Gate()
    diary = Diary(gate)
    diary.open_sequences = 1

    clean, _ = await drained(StopRequest(), gate, 0.05, diary)

    assert clean
    assert diary.events[-1] == "transport stops, gate closed, 0 inside"


@pytest.mark.asyncio
async def test_sequences_may_start_for_as_long_as_the_server_goes_on_serving() -> None:
    """Balancers that have not noticed yet still send them."""
    gate = Gate()
    diary = Diary(gate)
    request = StopRequest(delay_s=60.0)
    going = asyncio.ensure_future(drained(request, gate, diary=diary))
    while "probes unready" not in diary.events:
        await asyncio.sleep(0)
    before = list(diary.events)

    request.hurry.set()
    await going

    assert "no sequence starts" not in before
    assert "no sequence starts" in diary.events


@pytest.mark.asyncio
async def test_a_silent_sequence_does_not_cost_the_calls_inside_their_time() -> None:
    """They came while the gate was open for it, and are answered once it has closed."""
    gate = Gate()
    diary = Diary(gate)
    diary.open_sequences = 1
    gate.enter()
    loop = asyncio.get_running_loop()

    def leave_soon() -> None:
        loop.call_later(0.05, gate.leave)

    gate.watch(leave_soon)

    clean, _ = await drained(StopRequest(), gate, 1.0, diary)

    assert clean


@pytest.mark.asyncio
async def test_the_transport_stops_only_when_nothing_is_inside() -> None:
    """What was accepted is answered first."""
    gate = Gate()
    gate.enter()
    going = asyncio.ensure_future(drained(StopRequest(), gate))
    while not gate.closed:
        await asyncio.sleep(0)

    gate.leave()
    clean, diary = await going

    assert clean
    assert diary.events[-1] == "transport stops, gate closed, 0 inside"


@pytest.mark.asyncio
async def test_during_the_delay_calls_are_still_taken() -> None:
    """Balancers need time to notice: until then the gate stays open."""
    gate = Gate()
    request = StopRequest(delay_s=60.0)
    going = asyncio.ensure_future(drained(request, gate))
    await asyncio.sleep(0)

    gate.enter()
    gate.leave()
    request.hurry.set()

    assert (await going)[0]


@pytest.mark.asyncio
async def test_when_time_runs_out_what_is_inside_is_cut_off() -> None:
    """The exit time-out is kept, and told as unclean."""
    gate = Gate()
    gate.enter()

    clean, diary = await drained(StopRequest(), gate, timeout_s=0.01)

    assert not clean
    assert diary.events[-1] == "transport stops, gate closed, 1 inside"


@pytest.mark.asyncio
async def test_the_second_request_hurries_the_first() -> None:
    """Neither the delay nor what is inside is waited for any more."""
    gate = Gate()
    gate.enter()
    request = StopRequest()
    request.ask("SIGTERM", 60.0)
    going = asyncio.ensure_future(drained(request, gate, timeout_s=60.0))
    await asyncio.sleep(0)

    request.ask("SIGTERM", 60.0)

    assert not (await going)[0]
    assert (request.delay_s, request.code) == (60.0, 0)


# -- the gate and the guard ----------------------------------------------------------------------


async def echo(data: bytes, call: Call) -> bytes:
    """A handler that answers what it got."""
    return data


@pytest.mark.asyncio
async def test_a_closed_gate_refuses_with_pushback_but_lets_probes_through() -> None:
    """Clients are sent elsewhere with a retry hint; health is answered to the end."""
    gate = Gate()
    guard = Guard(gate)
    infer, check = guard.method(INFER, echo).unary, guard.method(CHECK, echo).unary
    assert infer is not None
    assert check is not None

    gate.close()
    with pytest.raises(Refusal) as refusal:
        await infer(b"1", FakeCall())

    answer = refusal.value.answer
    assert (answer.status, answer.text) == (Status.UNAVAILABLE, SHUTTING_DOWN)
    assert "grpc-retry-pushback-ms" in dict(answer.trailing)
    assert await check(b"2", FakeCall()) == b"2"


@pytest.mark.asyncio
async def test_whatever_ends_a_call_it_is_counted_out() -> None:
    """Success, error, defect and cancellation: the count returns to zero."""
    gate = Gate()

    async def handler(data: bytes, call: Call) -> bytes:
        assert gate.inflight == 1
        if data == b"error":
            raise InvalidArgument("bad")
        if data == b"defect":
            raise ValueError("bad")
        if data == b"hang":
            await asyncio.Event().wait()
        return data

    unary = Guard(gate).method(INFER, handler).unary
    assert unary is not None

    assert await unary(b"ok", FakeCall()) == b"ok"
    for data in (b"error", b"defect"):
        with pytest.raises(Refusal):
            await unary(data, FakeCall())
    task = asyncio.ensure_future(unary(b"hang", FakeCall()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert gate.inflight == 0


@pytest.mark.asyncio
async def test_a_stream_is_inside_until_it_ends() -> None:
    """An abandoned stream is counted out, and its handler cleans up."""
    gate = Gate()
    ended = []

    async def handler(messages: AsyncIterator[bytes], call: Call) -> None:
        try:
            async for data in messages:
                await call.write(data)
        finally:
            ended.append(True)

    stream = Guard(gate).method(STREAM, handler).stream
    assert stream is not None
    call = FakeCall()
    streaming = Streaming(call, stream(aiter(Messages([b"1"])), call))
    first = await streaming.next()
    inside = gate.inflight

    await streaming.leave()

    assert (first, inside, gate.inflight, ended) == (b"1", 1, 0, [True])


@pytest.mark.asyncio
async def test_closing_the_gate_tells_those_who_watch_it_once() -> None:
    """Open streams learn that they should end."""
    gate = Gate()
    told: list[str] = []
    gate.watch(lambda: told.append("a"))
    forget = gate.watch(lambda: told.append("b"))
    forget()

    gate.close()
    gate.close()

    assert told == ["a"]
    with pytest.raises(Unavailable):
        gate.enter()


@pytest.mark.asyncio
async def test_an_observer_learns_how_every_call_ended() -> None:
    """Start, status, sizes; cancelled calls included."""
    seen: list[tuple[str, int, int]] = []

    class Observer:
        def watch(self, rpc: Rpc) -> Watch:
            raise NotImplementedError

        def started(self, rpc: Rpc, call: Call) -> None:
            seen.append((rpc.name, 0, 0))

        def finished(
            self, rpc: Rpc, call: Call, code: str, duration_ns: int, size: int, sent: int
        ) -> None:
            assert duration_ns >= 0
            seen.append((code, size, sent))

    async def refuse(data: bytes, call: Call) -> bytes:
        raise InvalidArgument("bad")

    guard = Guard(Gate(), Observer())
    good, bad = guard.method(INFER, echo).unary, guard.method(INFER, refuse).unary
    assert good is not None
    assert bad is not None
    await good(b"123", FakeCall())
    with pytest.raises(Refusal):
        await bad(b"1", FakeCall())

    assert seen == [("Infer", 0, 0), ("OK", 3, 3), ("Infer", 0, 0), ("INVALID_ARGUMENT", 1, 0)]
