"""ModelInfer without a coroutine: submitted on the loop, answered on the loop.

For transports that have quick calls. A request costs a third of what it costs in a task; whatever
takes long to decode or to encode goes to a thread, as it does there.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from penstock.admission import NO_HEADERS
from penstock.auth.caller import permit_of
from penstock.codec.encode import encode_message
from penstock.codec.templates import kinds_of_length
from penstock.doorkeeper import Check
from penstock.interceptors import Observer
from penstock.load_report import ASKED
from penstock.rpc import Rpc
from penstock.status import translate
from penstock.timing import with_timing
from penstock.tracer import Tracer
from penstock.transport.base import Buffer, Message, QuickCall, QuickHandler
from penstock.unary_request import UnaryRequest
from penstock.wishes import TIMING_PARAMETER, TYPED_METADATA, metadata_flag, wants_typed
from penstock.workshop import Workshop, is_heavy_response
from penstock_runtime.errors import PenstockError
from penstock_runtime.model import Model
from penstock_runtime.request import InferResponse
from penstock_runtime.scheduling.base import Retired
from penstock_runtime.stream import ResponseStream

_log = logging.getLogger("penstock.server")


class QuickInfer:
    """Submits and answers quick calls of ModelInfer. Lives on one event loop."""

    def __init__(self, shop: Workshop, rpc: Rpc, observer: Observer | None) -> None:
        self.inbox = shop.inbox
        self.lock = threading.Lock()
        self._shop = shop
        self._watch = observer.watch(rpc) if observer is not None else None
        self._due: dict[Model, list[UnaryRequest]] = {}
        self.timed = shop.access.enabled
        """Whether anyone wants to know the timing of every request."""
        self._asides: set[asyncio.Task[None]] = set()

    def handler(self, check: Check | None = None) -> QuickHandler:
        """`submit`, and before it the question to its caller only where there is one."""
        if check is None:
            return self.submit

        def submit_checked(data: Buffer, call: QuickCall) -> None:
            try:
                # A server that drains tells everyone so, and lets nobody in.
                if not self._shop.gate.closed:
                    check(call)
            except Exception as error:
                self._turn_away(data, call, error)
            else:
                self.submit(data, call)

        return submit_checked

    def _turn_away(self, data: Buffer, call: QuickCall, error: Exception) -> None:
        """Refuse a call that did not come in; it is observed as others are."""
        if self._watch is not None:
            self._watch.started()
        self.refuse(UnaryRequest(self, call, data, time.monotonic_ns()), error)

    def submit(self, data: Buffer, call: QuickCall) -> None:
        """Admit one request; the call is answered later, or now if it is refused."""
        shop = self._shop
        request = UnaryRequest(self, call, data, time.monotonic_ns())
        call.on_cancel = request.abandon
        if self._watch is not None:
            self._watch.started()
        try:
            gate = shop.gate
            if gate.closed:
                raise gate.refuse()
            shop.budget.take(request.size)
            gate.inflight += 1
            request.entered = True
            if not self._recognise(request, data):
                self._submit_any(request, data)
        except Exception as error:
            self.refuse(request, error)

    def _recognise(self, request: UnaryRequest, data: Buffer) -> bool:
        """Whether the request is like one before; then it is queued at the end of this turn."""
        admission = self._shop.admission
        if type(data) is not bytes or admission.forwards:
            return False
        for template in kinds_of_length(request.size, ()):
            identity = template.identity(data)
            if identity is not None:
                model = admission.recognise(request, template, identity)
                if model is None:
                    return False
                if not self._due:
                    self.inbox.soon(self._hand_over)
                of_model = self._due.get(model)
                if of_model is None:
                    of_model = self._due[model] = []
                of_model.append(request)
                return True
        return False

    def _hand_over(self) -> None:
        """Queue what this turn has brought, model by model."""
        due, self._due = self._due, {}
        tracer = self._shop.admission.tracer
        for model, requests in due.items():
            waiting = [request for request in requests if not request.closed]
            if tracer is not None:
                waiting = self._untraced(tracer, model, waiting)
            for refused, error in model.accept(waiting) if waiting else ():
                self._refused(cast(UnaryRequest, refused), error)

    def _refused(self, request: UnaryRequest, error: PenstockError) -> None:
        if not isinstance(error, Retired):
            self.refuse(request, error)
            return
        # A reload: the careful way looks the name up again. Whether to trace it has been asked.
        request.verdict = False
        self._submit_again(request)

    def _submit_again(self, request: UnaryRequest) -> None:
        try:
            self._submit_any(request, request.data)
        except Exception as error:
            self.refuse(request, error)

    def _untraced(
        self, tracer: Tracer, model: Model, requests: list[UnaryRequest]
    ) -> list[UnaryRequest]:
        """Those that go on the quick way; the few that are traced go the careful one."""
        plans = tracer.choose(model.config.name, [request.call for request in requests])
        for index, plan in plans.items():
            requests[index].verdict = plan
            self._submit_again(requests[index])
        if not plans:
            return requests
        return [request for index, request in enumerate(requests) if index not in plans]

    def _submit_any(self, request: UnaryRequest, data: Buffer) -> None:
        admission = self._shop.admission
        if request.size > admission.light_bytes and admission.is_heavy(data):
            self._aside(self._admit_aside(request, data))
        else:
            self._admit(request, data)

    def _admit(self, request: UnaryRequest, data: Buffer) -> None:
        call, admission = request.call, self._shop.admission
        headers = admission.headers(call.metadata) if admission.forwards else NO_HEADERS
        admission.admit(
            data,
            request,
            request,
            call.deadline_ns,
            headers,
            unary=True,
            permit=permit_of(call),
            call=call,
            verdict=request.verdict,
        )

    # -- answering -------------------------------------------------------------------------------

    def respond(self, request: UnaryRequest, response: InferResponse) -> None:
        """Encode the response and end the call with it."""
        call, asked = request.call, request.request
        call.response = response
        typed = metadata_flag(call.metadata, TYPED_METADATA)
        try:
            if ASKED in call.metadata:
                self._shop.load.attach(call, response)
            if asked is not None and asked.parameters:
                typed = wants_typed(asked, typed)
                if asked.parameters.get(TIMING_PARAMETER):
                    response = with_timing(asked, response)
            if is_heavy_response(response, typed):
                self._aside(self._respond_aside(request, response, typed))
            else:
                self.send(request, encode_message(response, typed))
        except Exception as error:
            self.refuse(request, error)

    def send_all(self, streams: Sequence[ResponseStream]) -> None:
        """As `send` for each that has its answer as a message, in one pass, since every ordinary
        call comes here; the others are woken one by one.
        """
        shop, watch = self._shop, self._watch
        if shop.access.enabled:
            for stream in streams:
                stream.wake()
            return
        durations: list[int] = []
        size, now_ns = 0, time.monotonic_ns()
        for stream in streams:
            if type(stream) is not UnaryRequest or (message := stream.message) is None:
                stream.wake()
            elif not stream.closed:
                stream.closed = True
                size += stream.size
                durations.append(now_ns - stream.arrived_ns)
                call = stream.call
                call.on_cancel = None
                try:
                    call.reply(message)
                except Exception:
                    # A defect of the transport's: those behind it are answered nevertheless.
                    _log.exception("an answer of %s could not be sent", call.method)
        shop.budget.used -= size
        shop.gate.leave(len(durations))
        if watch is not None:
            watch.succeeded(durations)

    def send(self, request: UnaryRequest, message: Message) -> None:
        """End the call with this message."""
        if not request.closed:
            size = sum(map(len, message)) if isinstance(message, tuple) else len(message)
            self._close(request, "OK", size)
            request.call.reply(message)

    def refuse(self, request: UnaryRequest, error: Exception) -> None:
        """End the call with an error."""
        if request.closed:
            return
        asked = request.request
        told = translate(error, asked.id if asked is not None else "")
        self._close(request, told.status.value, 0)
        request.cancel()
        request.call.refuse(told)

    def abandon(self, request: UnaryRequest) -> None:
        """The caller is gone."""
        if not request.closed:
            self._close(request, "CANCELLED", 0)
            request.cancel()

    def _close(self, request: UnaryRequest, code: str, sent: int) -> None:
        """Give back what the call held; the last thing that is counted of it."""
        request.closed = True
        call = request.call
        # The call and its request hold each other: without this they would wait for a collection.
        call.on_cancel = None
        if request.entered:
            self._shop.budget.give(request.size)
            self._shop.gate.leave()
        if self._watch is not None:
            if self._shop.access.enabled:
                call.request = request.request
            spent_ns = time.monotonic_ns() - request.arrived_ns
            self._watch.finished(call, code, spent_ns, request.size, sent)

    # -- what takes long -------------------------------------------------------------------------

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    async def _admit_aside(self, request: UnaryRequest, data: Buffer) -> None:
        try:
            await self._shop.aside(self._admit, request, data)
        except Exception as error:
            self.refuse(request, error)

    async def _respond_aside(
        self, request: UnaryRequest, response: InferResponse, typed: bool
    ) -> None:
        try:
            self.send(request, await self._shop.aside(encode_message, response, typed))
        except Exception as error:
            self.refuse(request, error)
