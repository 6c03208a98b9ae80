"""What all connections of one transport share: methods, limits, clocks, counts, and the one write
per connection and turn of the loop.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from penstock.transport.base import Buffer, Method, QuickHandler
from penstock.transport.http2.arrivals import Arrivals
from penstock.transport.http2.call import Link, Load, ServerCall
from penstock.transport.http2.compressed_call import compressing
from penstock.transport.http2.compression import LEVELS
from penstock.transport.http2.deadlines import DeadlineWheel
from penstock.transport.http2.dispatch import DEADLINE_EXCEEDED, LATE, Dispatch
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.watch import Policy


class Connection(Protocol):
    """A connection, as the hub sees it."""

    link: Link
    bytes_in: int
    bytes_out: int

    def flush(self) -> None:
        """Write what it has to say."""

    def look(self, now_ns: int) -> None:
        """Do what the time demands."""

    def retire(self) -> None:
        """Take no new calls."""

    def cut(self) -> None:
        """End all calls and close."""

    def abort(self) -> None:
        """Let go of the socket."""


class Hub:
    """Shared by the connections of one transport. Lives on one loop."""

    def __init__(
        self, methods: Sequence[Method], options: Http2Options, limits: Limits, cap: int
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        arrivals = self.arrivals = Arrivals(options.max_arriving_bytes)
        self.limits = replace(limits, reserve=arrivals.take, release=arrivals.give)
        self.policy = Policy.of(options)
        self.cap = cap
        self.methods: Mapping[str, Method] = {method.path: method for method in methods}
        # With a limit on calls every call is counted, which quick ones should not have to pay for.
        calls = options.max_concurrent_rpcs
        self.load = Load(calls) if calls else None
        self.quick: Mapping[str, QuickHandler] = {
            method.path: method.submit
            for method in methods
            if method.submit is not None and self.load is None
        }
        self.call_type: type[ServerCall] = compressing(LEVELS[options.compression_level])
        self.read_buffer = bytearray(limits.read_buffer)
        self.deadlines = DeadlineWheel(self._arm)
        self.dispatch = Dispatch(self)
        self.connections: set[Connection] = set()
        self.empty = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        # Those whose task is not through and that are not among `connections` either.
        self._expected: set[Connection] = set()
        self.counts: Counter[str] = Counter()
        """Connections, GOAWAYs, and defences by name."""
        self.tallies: Counter[str] = Counter()
        """Defences of the core, by name, of connections that are gone."""
        self.past_in = self.past_out = 0
        """Bytes of connections that are gone."""
        self.stopping = False
        self._dirty: list[Connection] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None

    # -- writing ---------------------------------------------------------------------------------

    def schedule(self, connection: Connection) -> None:
        """Flush this connection before the turn of the loop ends."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    # -- time ------------------------------------------------------------------------------------

    def _arm(self, at_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_ns = max(0, at_ns - time.monotonic_ns())
        # Timers of uvloop may fire a millisecond early.
        self._timer = self.loop.call_later(delay_ns / 1e9 + 0.001, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for call in self.deadlines.fire(time.monotonic_ns()):
            call.cut(DEADLINE_EXCEEDED, LATE)

    @property
    def is_full(self) -> bool:
        """Whether no more connections can be had."""
        return len(self.connections) + len(self._expected) >= self.cap

    def arrive(self, connection: Connection, taking: Coroutine[Any, Any, None]) -> None:
        """Take a connection in, which may need a handshake first."""
        task = self.loop.create_task(taking)
        self._arriving.add(task)
        self._expected.add(connection)
        task.add_done_callback(self._arriving.discard)
        task.add_done_callback(lambda _: self._expected.discard(connection))

    def watch(self, connection: Connection) -> None:
        """Look at this connection from now on."""
        self.connections.add(connection)
        self._expected.discard(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(self.policy.period_ns / 1e9, self._look)

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        for connection in tuple(self.connections):
            connection.look(now_ns)
        self._sweep = None
        if self.connections:
            self._sweep = self.loop.call_later(self.policy.period_ns / 1e9, self._look)

    def forget(self, connection: Connection) -> None:
        """A connection is gone; what it counted stays."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.past_in += connection.bytes_in
        self.past_out += connection.bytes_out
        self.tallies.update(connection.link.tallies)
        if not self.connections:
            self.empty.set()

    # -- tasks -----------------------------------------------------------------------------------

    def read(self, message: Buffer) -> None:
        """A message reached its handler, or never will: only large ones are views, and counted."""
        if type(message) is memoryview:
            self.arrivals.give(len(message))

    def start(self, call: ServerCall, serving: Coroutine[Any, Any, None]) -> None:
        """Serve a call in a task, which is waited for when the transport stops."""
        task: asyncio.Task[None] = self.loop.create_task(serving)
        call.task = task
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler(
                {"message": "a call's task failed", "exception": task.exception(), "task": task}
            )

    async def turn_away(self) -> None:
        """Let nobody in any more, nor who is on the way."""
        self.stopping = True
        for task in self._arriving:
            task.cancel()
        if self._arriving:
            await asyncio.wait(tuple(self._arriving))

    async def quiet(self, timeout_s: float) -> None:
        """Return once no connection is left, or time ran out."""
        self.empty.clear()
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.empty.wait(), timeout_s)

    async def finished(self, timeout_s: float) -> None:
        """Return once no task is left, or time ran out."""
        await self.quiet(timeout_s)
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=timeout_s)

    def close(self) -> None:
        """Stop the timers."""
        for timer in (self._timer, self._sweep):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep = None
