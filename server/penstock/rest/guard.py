"""What happens around every endpoint: secrets, the gate, the body and its memory, the clock and the
log line, and errors turned into answers, once.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.doorkeeper import Check
from penstock.interceptors import RETRY_AFTER_NS, Gate
from penstock.limits import ByteBudget
from penstock.rest.bodies import BodyReader
from penstock.rest.call import HttpCall
from penstock.rest.compression import decompress
from penstock.rest.exchange import EventsReply, Exchange, Receive, Reply, Send
from penstock.rest.observed import UNKNOWN, HttpObserver
from penstock.rest.problems import SLOW, HttpProblem, unknown_path
from penstock.rest.refusals import Refusal, refused
from penstock.rest.route import Route
from penstock.rest.sending import ReaderStalledError, Sender, closed
from penstock.status import public_error
from penstock.workshop import Workshop
from penstock_runtime.errors import PenstockError, Unavailable

SHUTTING_DOWN = "HTTP server is shutting down and has stopped accepting new requests."
ABORT = "penstock.abort"
"""Where a scope keeps what cuts its connection."""
LEFT = 499
_LIGHT_BYTES = 64 << 10

_log = logging.getLogger("penstock.http")


@dataclass(frozen=True, slots=True)
class GuardTools:
    """What the guards of one port share."""

    gate: Gate
    budget: ByteBudget
    shop: Workshop
    checks: Mapping[str, Check]
    observer: HttpObserver
    max_input_bytes: int
    stall_s: float


class Guarded:
    """The routes of one path, as an application of ASGI."""

    def __init__(self, tools: GuardTools, routes: Mapping[str, Route]) -> None:
        self._tools = tools
        self._routes = routes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = scope["method"]
        # Whoever sends HEAD gets the head of what GET would give; the server drops the body.
        route = self._routes.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = ", ".join(self._routes)
            problem = HttpProblem(405, f"expected {allowed}", {"Allow": allowed})
            await turn_away(self._tools, scope, receive, send, problem)
            return
        visit = _Visit(self._tools, route.title, scope, receive, send, route.refusal)
        await visit.run(route)


class NotFoundApp:
    """Answers what no route answers."""

    def __init__(self, tools: GuardTools) -> None:
        self._tools = tools

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """404."""
        await turn_away(self._tools, scope, receive, send, unknown_path())


async def turn_away(
    tools: GuardTools, scope: Any, receive: Receive, send: Send, error: PenstockError
) -> None:
    """Refuse a request that no endpoint is for."""
    scope.setdefault("path_params", {})
    await _Visit(tools, UNKNOWN, scope, receive, send).refuse(error)


class _Visit:
    """One request, from its head to the end of its answer."""

    __slots__ = (
        "_abort",
        "_body",
        "_entered",
        "_exchange",
        "_refusal",
        "_sender",
        "_size",
        "_started",
        "_tools",
    )

    def __init__(
        self,
        tools: GuardTools,
        title: str,
        scope: Any,
        receive: Receive,
        send: Send,
        refusal: Refusal = refused,
    ) -> None:
        self._started = time.monotonic_ns()
        self._tools = tools
        self._refusal = refusal
        self._abort: Callable[[], None] = scope.get(ABORT, lambda: None)
        self._exchange = Exchange(scope, receive, HttpCall(scope, title))
        self._body = BodyReader(tools.budget, tools.max_input_bytes)
        self._sender = Sender(send, tools.stall_s)
        self._entered = False
        self._size = 0

    async def run(self, route: Route) -> None:
        code = LEFT
        status = "CANCELLED"
        try:
            reply = await self._answer(route)
            code = reply.code if isinstance(reply, Reply) else 200
            await self._send(reply)
            status = self._exchange.status
        finally:
            self._leave(code, status)

    async def refuse(self, error: PenstockError) -> None:
        code = LEFT
        try:
            await self._discard()
            reply = self._refused(error)
            code = reply.code
            await self._send(reply)
        finally:
            self._leave(code, self._exchange.status)

    # -- in --------------------------------------------------------------------------------------

    async def _answer(self, route: Route) -> Reply | EventsReply:
        try:
            await self._come_in(route)
            return await route.endpoint(self._exchange)
        except Exception as error:
            return self._refused(public_error(error))

    async def _come_in(self, route: Route) -> None:
        try:
            self._check(route)
            if route.method == "POST":
                await self._read()
        except PenstockError as error:
            # Whoever is too slow is not waited for once more.
            if not (isinstance(error, HttpProblem) and error.code == SLOW):
                await self._discard()
            raise
        self._enter(route)

    async def _discard(self) -> None:
        exchange = self._exchange
        await self._body.discard(exchange.receive, exchange.call.metadata)

    def _check(self, route: Route) -> None:
        """Before a byte of the body is read: whether the request may come in at all."""
        gate = self._tools.gate
        if gate.closed and not route.ungated:
            gate.refused += 1
            raise _shutting_down()
        check = self._tools.checks.get(route.title)
        if check is not None:
            check(self._exchange.call)

    async def _read(self) -> None:
        exchange, tools = self._exchange, self._tools
        headers = exchange.call.metadata
        body = await self._body.read(exchange.receive, headers)
        self._size = len(body)
        encoding = headers.get("content-encoding", "")
        if encoding:
            if len(body) > _LIGHT_BYTES:
                plain = await tools.shop.aside(decompress, body, encoding, tools.max_input_bytes)
            else:
                plain = decompress(body, encoding, tools.max_input_bytes)
            self._body.hold(max(len(plain) - len(body), 0))
            body = plain
        exchange.body = body

    def _enter(self, route: Route) -> None:
        if route.ungated:
            return
        gate = self._tools.gate
        if gate.closed:
            gate.refused += 1
            raise _shutting_down()
        gate.inflight += 1
        self._entered = True

    # -- out -------------------------------------------------------------------------------------

    def _refused(self, error: PenstockError) -> Reply:
        exchange = self._exchange
        exchange.status = error.status.value
        request = exchange.call.request
        reply = self._refusal(error, request.id if request is not None else "")
        if self._tools.gate.closed:
            # Whoever keeps the connection would find no server behind it.
            reply = Reply(
                reply.pieces, reply.code, headers={**reply.headers, "Connection": "close"}
            )
        return reply

    async def _send(self, reply: Reply | EventsReply) -> None:
        try:
            if isinstance(reply, Reply):
                await self._sender.reply(reply)
            else:
                await self._sender.events(reply)
        except ReaderStalledError:
            self._exchange.status = "RESOURCE_EXHAUSTED"
            self._abort()
        except Exception:
            self._exchange.status = "INTERNAL"
            _log.exception("an answer to %s could not be sent", self._exchange.call.method)
            self._abort()
        finally:
            if isinstance(reply, EventsReply):
                await closed(reply.events)

    def _leave(self, code: int, status: str) -> None:
        """Give back what the request held; the last thing that is counted of it."""
        self._body.close()
        if self._entered:
            self._tools.gate.leave()
        call, sent = self._exchange.call, self._sender.sent
        self._tools.observer.finished(call, code, status, self._started, self._size, sent)


def _shutting_down() -> Unavailable:
    return Unavailable(SHUTTING_DOWN, reason="SHUTTING_DOWN", retry_after_ns=RETRY_AFTER_NS)
