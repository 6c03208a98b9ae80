"""ModelInfer without a coroutine: submitted on the loop, answered on the loop.

For transports that have quick calls. A request costs a third of what it costs in a task; whatever
takes long to decode or to encode goes to a thread, as it does there.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from penstock.admission import (
    NO_HEADERS,
    TIMING_PARAMETER,
    TYPED_METADATA,
    metadata_flag,
    wants_typed,
)
from penstock.codec.encode import encode_message
from penstock.codec.heavy import CONTENTS_LIMIT, is_heavy
from penstock.interceptors import Observer
from penstock.rpc import Rpc
from penstock.status import translate
from penstock.timing import with_timing
from penstock.transport.base import Buffer, Message, QuickCall
from penstock.workshop import Workshop, is_heavy_response
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import ResponseStream


class UnaryAnswer(ResponseStream):
    """The one answer to a quick call, and the account of what the call holds until then."""

    __slots__ = ("call", "closed", "count", "entered", "first", "lane", "request", "size", "start")

    def __init__(self, lane: "QuickInfer", call: QuickCall, size: int) -> None:
        super().__init__(lane.shop.inbox)
        self.lane = lane
        self.call = call
        self.size = size
        self.start = time.monotonic_ns()
        self.request: InferRequest | None = None
        self.first: InferResponse | None = None
        self.count = 0
        self.entered = False
        self.closed = False

    def wake(self) -> None:
        """Something is there: answer the call once it has its one response, or its error."""
        if self.closed:
            return
        try:
            while (response := self.pop()) is not None:
                if response.final and not self.count:
                    self.lane.respond(self, response)
                    return
                self.first = self.first or response
                self.count += 1
            if self.exhausted:
                if self.count != 1 or self.first is None:
                    text = f"expected a single response, got {self.count}"
                    raise Internal(text, scheduled=True)
                self.lane.respond(self, self.first)
        except Exception as error:
            self.lane.refuse(self, error)

    def abandon(self) -> None:
        """The caller is gone."""
        if not self.closed:
            self.lane.close(self, "CANCELLED", 0)
            self.cancel()


class QuickInfer:
    """Submits and answers quick calls of ModelInfer. Lives on one event loop."""

    def __init__(self, shop: Workshop, rpc: Rpc, observer: Observer | None) -> None:
        self.shop = shop
        self._watch = observer.watch(rpc) if observer is not None else None
        self._asides: set[asyncio.Task[None]] = set()

    def submit(self, data: Buffer, call: QuickCall) -> None:
        """Admit one request; the call is answered later, or now if it is refused."""
        shop = self.shop
        answer = UnaryAnswer(self, call, len(data))
        call.on_cancel = answer.abandon
        if self._watch is not None:
            self._watch.started()
        try:
            gate = shop.gate
            if gate.closed:
                raise gate.refuse()
            shop.budget.take(answer.size)
            gate.inflight += 1
            answer.entered = True
            if answer.size > CONTENTS_LIMIT and is_heavy(data):
                self._aside(self._admit_aside(answer, data))
            else:
                self._admit(answer, data)
        except Exception as error:
            self.refuse(answer, error)

    def _admit(self, answer: UnaryAnswer, data: Buffer) -> None:
        call, admission = answer.call, self.shop.admission
        headers = admission.headers(call.metadata) if admission.forwards else NO_HEADERS
        admission.admit(data, answer, answer, call.deadline_ns, headers, unary=True)
        call.request = answer.request

    # -- answering -------------------------------------------------------------------------------

    def respond(self, answer: UnaryAnswer, response: InferResponse) -> None:
        """Encode the response and end the call with it."""
        call = answer.call
        request = call.request = answer.request
        call.response = response
        metadata = call.metadata
        typed = TYPED_METADATA in metadata and metadata_flag(metadata, TYPED_METADATA)
        if request is not None and request.parameters:
            typed = wants_typed(request, typed)
            if request.parameters.get(TIMING_PARAMETER):
                response = with_timing(request, response)
        if is_heavy_response(response, typed):
            self._aside(self._respond_aside(answer, response, typed))
        else:
            self._send(answer, encode_message(response, typed))

    def _send(self, answer: UnaryAnswer, message: Message) -> None:
        if not answer.closed:
            size = sum(map(len, message)) if isinstance(message, tuple) else len(message)
            self.close(answer, "OK", size)
            answer.call.reply(message)

    def refuse(self, answer: UnaryAnswer, error: Exception) -> None:
        """End the call with an error."""
        if answer.closed:
            return
        request = answer.call.request = answer.request
        told = translate(error, request.id if request is not None else "")
        self.close(answer, told.status.value, 0)
        if not answer.ended:
            answer.cancel()
        answer.call.refuse(told)

    def close(self, answer: UnaryAnswer, code: str, sent: int) -> None:
        """Give back what the call held; the last thing that is counted of it."""
        answer.closed = True
        # The call and its answer hold each other: without this they would wait for a collection.
        answer.call.on_cancel = None
        if answer.entered:
            self.shop.budget.give(answer.size)
            self.shop.gate.leave()
        if self._watch is not None:
            duration = time.monotonic_ns() - answer.start
            self._watch.finished(answer.call, code, duration, answer.size, sent)

    # -- what takes long -------------------------------------------------------------------------

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _admit_aside(self, answer: UnaryAnswer, data: Buffer) -> None:
        try:
            await self.shop.aside(self._admit, answer, data)
        except Exception as error:
            self.refuse(answer, error)

    async def _respond_aside(
        self, answer: UnaryAnswer, response: InferResponse, typed: bool
    ) -> None:
        try:
            self._send(answer, await self.shop.aside(encode_message, response, typed))
        except Exception as error:
            self.refuse(answer, error)
