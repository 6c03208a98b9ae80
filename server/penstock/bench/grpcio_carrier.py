"""Calls over grpcio's asyncio client, to compare with, and for what our own connection lacks. It
costs ten times as much for each call.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from penstock.bench.carrier import NOW
from penstock.bench.meter import Meter
from penstock.bench.requests import Body, traceparents
from penstock.client.calls import INFERENCE
from penstock.client.channel import TLS, addresses_of, channel_options, grpc_target
from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

_NS = 1_000_000_000
_UNLIMITED = 1 << 30


@dataclass(frozen=True, slots=True)
class GrpcioWork:
    """What the calls send, as `Work` has it for HTTP/2; `fresh` adds a traceparent to each."""

    bodies: Iterator[Body]
    timeout_s: float
    metadata: tuple[tuple[str, str], ...] = ()
    fresh: bool = False
    streamed: bool = False


class GrpcioCarrier:
    """So many channels, each with a connection of its own, on an event loop that runs in `poll`."""

    def __init__(
        self, url: str, tls: TLS | None, connections: int, work: GrpcioWork, meter: Meter
    ) -> None:
        """InferenceError when one of the connections cannot be had."""
        self.meter = meter
        self._work = work
        self._traces = traceparents()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._woken = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: list[Any] = []
        self._calls: list[Any] = []
        self._next = 0
        try:
            self._runner.run(self._connect(url, tls, connections))
        except BaseException:
            self.close()
            raise

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._tasks)

    @property
    def room(self) -> int:
        """grpcio keeps what the server has no room for."""
        return _UNLIMITED

    def launch(self, dues: Sequence[int]) -> None:
        """Begin a call for each due time, on the channels in turn."""
        one = self._streamed if self._work.streamed else self._unary
        for due in dues:
            self._next = (self._next + 1) % len(self._calls)
            task = self._loop.create_task(one(self._calls[self._next], due))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def poll(self, until: int) -> None:
        """Run the event loop until a call ends, but not beyond `until`."""
        self._loop.run_until_complete(self._wait(until))

    def abandon(self) -> None:
        """End all calls in flight."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._runner.run(_ended(self._tasks))

    def close(self) -> None:
        """Close every channel."""
        self._runner.run(self._disconnect())
        self._runner.close()

    async def _connect(self, url: str, tls: TLS | None, connections: int) -> None:
        addresses = addresses_of(url)
        target = grpc_target(addresses)
        # Without this the channels of one process share their connections.
        options = [*channel_options(addresses, tls), ("grpc.use_local_subchannel_pool", 1)]
        method = "ModelStreamInfer" if self._work.streamed else "ModelInfer"
        for _ in range(connections):
            channel = (
                grpc.aio.insecure_channel(target, options)
                if tls is None
                else grpc.aio.secure_channel(
                    target, grpc.ssl_channel_credentials(*tls.read()), options
                )
            )
            self._channels.append(channel)
            kind = channel.unary_stream if self._work.streamed else channel.unary_unary
            self._calls.append(kind(INFERENCE + method))
        try:
            for channel in self._channels:
                await asyncio.wait_for(channel.channel_ready(), self._work.timeout_s)
        except TimeoutError:
            text = f"failed to connect to {url} within {self._work.timeout_s:g} s"
            raise InferenceError(Status.UNAVAILABLE, text) from None

    async def _disconnect(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _wait(self, until: int) -> None:
        self._woken.clear()
        seconds = max(until - time.monotonic_ns(), 0) / _NS
        alarm = self._loop.call_later(seconds, self._woken.set)
        await self._woken.wait()
        alarm.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._woken.set()
        if not task.cancelled():
            task.result()

    async def _unary(self, method: Any, due: int) -> None:
        due = self._begin(due)
        try:
            await method(self._body(), timeout=self._work.timeout_s, metadata=self._metadata())
        except grpc.RpcError as error:
            self._fail(due, error)
        except asyncio.CancelledError:
            self.meter.failed(due, "DEADLINE_EXCEEDED", "no answer within the deadline")
        else:
            self.meter.answered(due, time.monotonic_ns())

    async def _streamed(self, method: Any, due: int) -> None:
        due, last, problem = self._begin(due), 0, ""
        call = method(self._body(), timeout=self._work.timeout_s, metadata=self._metadata())
        try:
            async for message in call:
                now = time.monotonic_ns()
                self.meter.response(due, last, now)
                last = now
                if message[:1] == b"\n":
                    problem = problem or message[2:200].decode(errors="replace")
        except grpc.RpcError as error:
            self._fail(due, error)
        except asyncio.CancelledError:
            self.meter.failed(due, "DEADLINE_EXCEEDED", "no answer within the deadline")
        else:
            if problem:
                self.meter.failed(due, "UNKNOWN", problem)
            else:
                self.meter.ended(due, time.monotonic_ns())
        finally:
            call.cancel()

    def _begin(self, due: int) -> int:
        now = time.monotonic_ns()
        if due == NOW:
            return now
        self.meter.sent((due,), now)
        return due

    def _body(self) -> bytes:
        body = next(self._work.bodies)
        return body if isinstance(body, bytes) else b"".join(body)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        if not self._work.fresh:
            return self._work.metadata
        return (*self._work.metadata, ("traceparent", next(self._traces)))

    def _fail(self, due: int, error: Any) -> None:
        self.meter.failed(due, error.code().name, error.details() or "")


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.wait(set(tasks))
