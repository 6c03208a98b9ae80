"""A small service and a thread that serves it, for tests that talk to a transport by bytes."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from tests.http2.loops import FACTORIES

from penstock.status import Answer
from penstock.transport.base import Buffer, Call, Method, QuickCall, Refusal, Transport
from penstock.transport.grpcio import GrpcioOptions, GrpcioTransport
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.server import Http2Transport
from penstock_runtime.errors import Status

REFUSAL = Answer(
    Status.NOT_FOUND,
    "no such thing: 'ä' 100%\n",
    (("grpc-retry-pushback-ms", "7"), ("detail-bin", b"\x00\xff\x01")),
)


class Service:
    """Handlers, and counts of what they were asked; `inside` is how many of them wait now."""

    def __init__(self) -> None:
        self.called: Counter[str] = Counter()
        self.inside = 0
        self.cancelled = 0
        self.sizes: list[int] = []

    def methods(self) -> tuple[Method, ...]:
        """Every method; those under `/q/` have a quick way in as well."""
        unary = {
            "Echo": self.echo,
            "Describe": self.describe,
            "Refuse": self.refuse,
            "Hang": self.hang,
            "Big": self.big,
            "Break": self.fail,
        }
        streams = {
            "Double": self.double,
            "RefuseStream": self.refuse_stream,
            "HangStream": self.hang_stream,
            "Flood": self.flood,
            "Count": self.count,
            "Drain": self.drain,
            "BreakStream": self.fail_stream,
        }
        quick = {"Echo": self.quick_echo, "Refuse": self.quick_refuse, "Hang": self.quick_hang}
        return (
            *(Method(f"/s/{name}", unary=one) for name, one in unary.items()),
            *(Method(f"/s/{name}", stream=one) for name, one in streams.items()),
            *(Method(f"/q/{name}", unary=unary[name], submit=one) for name, one in quick.items()),
        )

    async def echo(self, data: bytes, call: Call) -> bytes:
        """Answers what it got."""
        self.called["Echo"] += 1
        return bytes(data)

    async def describe(self, data: bytes, call: Call) -> bytes:
        """Answers what it knows of the call."""
        call.set_trailing_metadata((("bye", "now"), ("raw-bin", b"\x00\x01")))
        known = sorted(
            (name, value)
            for name, value in call.metadata.items()
            if not name.startswith(("user-agent", "grpc-", ":"))
        )
        left = None if call.deadline_ns is None else call.deadline_ns - time.monotonic_ns()
        hours = None if left is None else round(left / 3.6e12)
        return repr((call.method, call.peer.split(":")[0], known, hours)).encode()

    async def refuse(self, data: bytes, call: Call) -> bytes:
        """Refuses."""
        raise Refusal(REFUSAL)

    async def hang(self, data: bytes, call: Call) -> bytes:
        """Waits until it is cancelled."""
        self.inside += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.inside -= 1
            self.cancelled += 1
        return b""

    async def big(self, data: bytes, call: Call) -> bytes:
        """As many zeros as the request says."""
        return bytes(int(bytes(data)))

    async def fail(self, data: bytes, call: Call) -> bytes:
        """Breaks as no handler should."""
        raise Refusal(Answer(Status.INTERNAL, "internal error (log id 1)"))

    async def double(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Answers every message twice."""
        async for data in messages:
            await call.write(bytes(data))
            await call.write(bytes(data))

    async def refuse_stream(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Answers once and then refuses."""
        await call.write(b"first")
        raise Refusal(REFUSAL)

    async def hang_stream(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Waits, and reads nothing."""
        await self.hang(b"", call)

    async def flood(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Writes for ever."""
        self.inside += 1
        try:
            while True:
                await call.write(bytes(65_536))
                self.called["Flood"] += 1
        finally:
            self.inside -= 1
            self.cancelled += 1

    async def count(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """As many small messages as the first message says."""
        async for data in messages:
            for number in range(int(bytes(data))):
                await call.write(b"%d" % number)
            return

    async def drain(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Reads to the end and answers how many messages and bytes there were."""
        self.inside += 1
        count = size = 0
        try:
            async for data in messages:
                count, size = count + 1, size + len(data)
                self.called["Drain"] += 1
            await call.write(b"%d %d" % (count, size))
        finally:
            self.inside -= 1

    async def fail_stream(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Reads one message, then breaks."""
        async for _ in messages:
            raise Refusal(Answer(Status.INTERNAL, "internal error (log id 1)"))

    def quick_echo(self, data: Buffer, call: QuickCall) -> None:
        """As `echo`, a turn of the loop later."""
        self.called["Echo"] += 1
        asyncio.get_running_loop().call_soon(call.reply, bytes(data))

    def quick_refuse(self, data: Buffer, call: QuickCall) -> None:
        """As `refuse`."""
        call.refuse(REFUSAL)

    def quick_hang(self, data: Buffer, call: QuickCall) -> None:
        """As `hang`."""
        self.inside += 1
        call.on_cancel = self._left

    def _left(self) -> None:
        self.inside -= 1
        self.cancelled += 1


class Serving:
    """A transport in a thread of its own."""

    def __init__(self, transport: Transport, service: Service, loop_name: str) -> None:
        self.transport = transport
        self.service = service
        self._factory = FACTORIES[loop_name]
        self.address = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.problems: list[dict[str, Any]] = []
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Serve; raises what prevented it."""
        self._thread.start()
        assert self._up.wait(30), "the transport did not start"
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End; what the loop complained of fails the test."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the transport does not stop"
        assert not self.problems, self.problems

    def tasks(self) -> int:
        """How many tasks the loop has; safe enough from another thread for a test's wait."""
        assert self.loop is not None
        return len(asyncio.all_tasks(self.loop))

    def figure(self, name: str, /, **labels: str) -> float:
        """What a scrape finds under this name; 0 if there is nothing."""
        families = self.transport.families()
        samples = (one for family in families if family.name == name for one in family.samples)
        return next((one.value for one in samples if one.labels == labels), 0.0)

    def defended(self, name: str) -> float:
        """How often the defence of this name was needed."""
        return self.figure("penstock_http2_defences_total", name=name)

    @property
    def streams(self) -> float:
        """Streams that are open."""
        return self.figure("penstock_http2_streams")

    @property
    def connections(self) -> float:
        """Connections that are open."""
        return self.figure("penstock_http2_connections")

    def _complain(self, context: dict[str, Any]) -> None:
        # grpcio has one poller for all loops of a process, and tells those that are closed, too.
        if "PollerCompletionQueue" not in context.get("message", ""):
            self.problems.append(context)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._factory) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self._complain(context))
        self.address = (await self.transport.start())[0]
        self._up.set()
        await self._stop.wait()
        await self.transport.stop(0)


def make(kind: str, service: Service, **options: Any) -> Transport:
    """The transport of this name with these options of its own."""
    options.setdefault("addresses", ("127.0.0.1:0",))
    # Tests fence with PINGs; the one of ping strikes sets its own.
    options.setdefault("max_ping_strikes", 0)
    if kind == "grpcio":
        return GrpcioTransport(service.methods(), GrpcioOptions(**options))
    limits = options.pop("limits", None)
    return Http2Transport(service.methods(), Http2Options(**options), limits)


@contextmanager
def serving(
    kind: str = "http2", *, loop_name: str = "asyncio", **options: Any
) -> Iterator[Serving]:
    """A served service for the time of a block."""
    service = Service()
    served = Serving(make(kind, service, **options), service, loop_name)
    served.start()
    try:
        yield served
    finally:
        served.stop()
