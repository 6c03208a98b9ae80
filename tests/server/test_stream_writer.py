"""Laws of the writing half of a stream: at once while there is room, and never beyond what is
waited for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, cast

import pytest
from tests.fakes_server import FakeCall

from penstock.stream_pressure import Pressure, StallWatch
from penstock.stream_writer import StreamWriter
from penstock.transport.base import Call

Write = Callable[[Sequence[bytes]], Awaitable[None]]


class Writing:
    """A writer on a transport that a test plays, and what it told."""

    def __init__(self, write: Write, stall_s: float = 30.0) -> None:
        self.call = FakeCall()
        self.call.write_many = write  # type: ignore[method-assign,assignment]
        self.room = asyncio.Event()
        self.failures: list[BaseException] = []
        stall = StallWatch(cast(Call, self.call), stall_s, Pressure(1))
        self.writer = StreamWriter(
            cast(Call, self.call), stall, self.room.set, self.failures.append
        )


class Done:
    """An awaitable that is no coroutine and takes no time."""

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]


@pytest.mark.asyncio
async def test_what_the_transport_takes_at_once_is_waited_for_by_nobody() -> None:
    """Be it a coroutine or anything else that can be awaited."""
    taken: list[Sequence[bytes]] = []

    async def coroutine(messages: Sequence[bytes]) -> None:
        taken.append(messages)

    def other(messages: Sequence[bytes]) -> Done:
        taken.append(messages)
        return Done()

    for write in (coroutine, other):
        writing = Writing(write)
        writing.writer.write([b"a", b"b"])
        assert not writing.writer.blocked
        assert not writing.failures

    assert taken == [[b"a", b"b"]] * 2
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.asyncio
async def test_a_full_transport_blocks_until_it_takes_more() -> None:
    """However many steps that takes; then whoever writes is told."""
    gates = [asyncio.Event() for _ in range(3)]
    passed: list[int] = []

    async def write(messages: Sequence[bytes]) -> None:
        for number, gate in enumerate(gates):
            await gate.wait()
            await asyncio.sleep(0)
            passed.append(number)

    writing = Writing(write)
    writing.writer.write([b"a"])
    blocked = writing.writer.blocked
    for gate in gates:
        gate.set()
    await writing.room.wait()

    assert (blocked, writing.writer.blocked) == (True, False)
    assert passed == [0, 1, 2]
    assert not writing.failures


@pytest.mark.asyncio
@pytest.mark.parametrize("late", [False, True])
async def test_a_transport_that_fails_is_told_of_once(late: bool) -> None:
    """At once, or after a wait: what was waited for may fail as well, and the call handle it."""
    waited = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def write(messages: Sequence[bytes]) -> None:
        if late:
            try:
                await waited
            except ConnectionError as error:
                seen.append(str(error))
        raise OSError("gone")

    writing = Writing(write)
    writing.writer.write([b"a"])
    waited.set_exception(ConnectionError("reset"))
    if late:
        await writing.room.wait()
    else:
        waited.exception()

    assert [str(error) for error in writing.failures] == ["gone"]
    assert seen == ["reset"] * late
    assert not writing.writer.blocked


@pytest.mark.asyncio
async def test_a_call_that_was_cancelled_is_a_failure_to_write() -> None:
    """A transport says so instead of taking what nobody will read."""

    def write(messages: Sequence[bytes]) -> Awaitable[None]:
        raise asyncio.CancelledError

    writing = Writing(write)
    writing.writer.write([b"a"])

    assert [type(error) for error in writing.failures] == [asyncio.CancelledError]


@pytest.mark.asyncio
async def test_closing_ends_what_is_waited_for() -> None:
    """The transport's coroutine sees it, and nobody is told anything."""
    ended: list[bool] = []

    async def write(messages: Sequence[bytes]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    writing = Writing(write)
    writing.writer.write([b"a"])
    await asyncio.sleep(0)
    writing.writer.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert ended == [True]
    assert not writing.failures
    assert not writing.room.is_set()


@pytest.mark.asyncio
async def test_a_reader_who_takes_nothing_for_too_long_ends_the_call() -> None:
    """Only while something is written, and only if that takes so long."""
    release = asyncio.Event()

    async def write(messages: Sequence[bytes]) -> None:
        await release.wait()

    patient, stalled = Writing(write), Writing(write, stall_s=0.01)
    patient.writer.write([b"a"])
    stalled.writer.write([b"a"])
    while stalled.call.aborted is None:
        await asyncio.sleep(0.002)
    release.set()
    await patient.room.wait()

    assert patient.call.aborted is None
    assert stalled.call.aborted.reason == "SLOW_READER"
