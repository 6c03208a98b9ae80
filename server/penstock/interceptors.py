"""What happens around every handler, whatever the transport: the gate, the count of calls inside,
what a caller must know or be, the clock, the log line, and errors turned into statuses, once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from penstock.doorkeeper import OPEN, Check, Doorkeeper
from penstock.rpc import Category, Kind, Rpc
from penstock.status import translate
from penstock.transport.base import (
    Call,
    Method,
    QuickHandler,
    Refusal,
    StreamHandler,
    UnaryHandler,
)
from penstock_runtime.errors import Unavailable

SHUTTING_DOWN = "GRPC server is shutting down and has stopped accepting new requests."
RETRY_AFTER_NS = 1_000_000_000
# Probes and tools have to be answered while the server drains, and a Watch never ends by itself.
_UNGATED = frozenset((Category.HEALTH, Category.REFLECTION))


def shutting_down() -> Unavailable:
    """The refusal of a server that drains: a retry finds another one."""
    return Unavailable(SHUTTING_DOWN, reason="SHUTTING_DOWN", retry_after_ns=RETRY_AFTER_NS)


class Gate:
    """Counts the calls inside; once closed, lets no new one in. Lives on the event loop."""

    def __init__(self) -> None:
        self.inflight = 0
        self.refused = 0
        self.closed = False
        self._on_close: set[Callable[[], None]] = set()
        self._idle: asyncio.Event | None = None

    def enter(self) -> None:
        """Count a call in, or refuse it."""
        if self.closed:
            raise self.refuse()
        self.inflight += 1

    def refuse(self) -> Unavailable:
        """Count a call that came too late; the error it gets."""
        self.refused += 1
        return shutting_down()

    def leave(self, count: int = 1) -> None:
        """Count so many calls out."""
        self.inflight -= count
        if self._idle is not None and self.inflight == 0:
            self._idle.set()

    def close(self) -> None:
        """Let nothing more in, and tell the streams that are open."""
        if self.closed:
            return
        self.closed = True
        for callback in tuple(self._on_close):
            callback()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call this when the gate closes; returns what takes the callback back."""
        self._on_close.add(callback)
        return lambda: self._on_close.discard(callback)

    async def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is inside; False if time ran out."""
        if self.inflight == 0:
            return True
        self._idle = asyncio.Event()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Gate {state}, {self.inflight} inside>"


class Watch(Protocol):
    """Told of the calls of one method."""

    def started(self) -> None:
        """A call came in."""

    def finished(self, call: Call, code: str, duration_ns: int, size: int, sent: int) -> None:
        """A call ended with this status, after so many bytes in and out."""

    def succeeded(self, durations_ns: Sequence[int]) -> None:
        """Calls ended with OK after so long, and no line has to be written for them."""


class Observer(Protocol):
    """Told of every call; made only when someone wants to know."""

    def watch(self, rpc: Rpc) -> Watch:
        """The same for one method, cheaper; for calls that begin and end on the loop."""

    def started(self, rpc: Rpc, call: Call) -> None:
        """A call came in."""

    def finished(
        self, rpc: Rpc, call: Call, code: str, duration_ns: int, size: int, sent: int
    ) -> None:
        """A call ended with this status; `size` are the bytes of a unary request, `sent` those of
        its reply.
        """


class Guard:
    """Wraps handlers. Without an observer a call that succeeds pays for two additions only."""

    def __init__(
        self,
        gate: Gate,
        observer: Observer | None = None,
        *,
        delay_s: float = 0.0,
        doorkeeper: Doorkeeper = OPEN,
    ) -> None:
        self._gate = gate
        self._observer = observer
        self._delay_s = delay_s
        self._doorkeeper = doorkeeper

    def method(
        self,
        rpc: Rpc,
        handler: UnaryHandler | StreamHandler,
        submit: QuickHandler | None = None,
    ) -> Method:
        """The method that a transport serves for this row of the table.

        `submit`, the quick way into a unary method, guards itself.
        """
        if rpc.kind is Kind.STREAM:
            return self._stream_method(rpc, handler)  # type: ignore[arg-type]
        return self._unary_method(rpc, handler, submit)  # type: ignore[arg-type]

    def _stream_method(self, rpc: Rpc, handler: StreamHandler) -> Method:
        # Whether a method has a question is asked here, once, and not with every call.
        check = self._doorkeeper.check(rpc)
        if check is not None:
            handler = _checked_stream(handler, check)
        return Method(rpc.path, stream=self._stream(rpc, handler))

    def _unary_method(self, rpc: Rpc, handler: UnaryHandler, submit: QuickHandler | None) -> Method:
        check = self._doorkeeper.check(rpc)
        if self._delay_s and rpc.category is not Category.INFERENCE:
            handler = _delayed(handler, self._delay_s)
        if check is not None:
            handler = _checked_unary(handler, check)
        handler = self._unary(rpc, handler)
        if self._observer is not None:
            handler = _observed_unary(rpc, handler, self._observer)
        return Method(rpc.path, unary=handler, submit=submit)

    def _unary(self, rpc: Rpc, handler: UnaryHandler) -> UnaryHandler:
        gate = self._gate

        async def ungated(data: bytes, call: Call) -> bytes:
            try:
                return await handler(data, call)
            except Exception as error:
                raise _refusal(error, call) from None

        async def gated(data: bytes, call: Call) -> bytes:
            if gate.closed:
                raise _refusal(gate.refuse(), call)
            gate.inflight += 1
            try:
                return await handler(data, call)
            except Exception as error:
                raise _refusal(error, call) from None
            finally:
                gate.leave()

        return ungated if rpc.category in _UNGATED else gated

    def _stream(self, rpc: Rpc, handler: StreamHandler) -> StreamHandler:
        gate, observer = self._gate, self._observer
        gated = rpc.category not in _UNGATED

        async def guarded(messages: AsyncIterator[bytes], call: Call) -> None:
            started = time.monotonic_ns()
            if observer is not None:
                observer.started(rpc, call)
            code, entered = "CANCELLED", False
            try:
                if gated:
                    gate.enter()
                    entered = True
                await handler(messages, call)
                code = "OK"
            except Exception as error:
                refusal = _refusal(error, call)
                code = refusal.answer.status.value
                raise refusal from None
            finally:
                if entered:
                    gate.leave()
                if observer is not None:
                    observer.finished(rpc, call, code, time.monotonic_ns() - started, 0, 0)

        return guarded


def _refusal(error: Exception, call: Call) -> Refusal:
    request = call.request
    return Refusal(translate(error, request.id if request is not None else ""))


def _observed_unary(rpc: Rpc, handler: UnaryHandler, observer: Observer) -> UnaryHandler:
    async def observed(data: bytes, call: Call) -> bytes:
        started = time.monotonic_ns()
        observer.started(rpc, call)
        code, sent = "CANCELLED", 0
        try:
            reply = await handler(data, call)
            code, sent = "OK", len(reply)
        except Refusal as refusal:
            code = refusal.answer.status.value
            raise
        finally:
            duration_ns = time.monotonic_ns() - started
            observer.finished(rpc, call, code, duration_ns, len(data), sent)
        return reply

    return observed


def _checked_unary(handler: UnaryHandler, check: Check) -> UnaryHandler:
    async def checked(data: bytes, call: Call) -> bytes:
        check(call)
        return await handler(data, call)

    return checked


def _checked_stream(handler: StreamHandler, check: Check) -> StreamHandler:
    async def checked(messages: AsyncIterator[bytes], call: Call) -> None:
        check(call)
        await handler(messages, call)

    return checked


def _delayed(handler: UnaryHandler, delay_s: float) -> UnaryHandler:
    async def delayed(data: bytes, call: Call) -> bytes:
        await asyncio.sleep(delay_s)
        return await handler(data, call)

    return delayed
