"""One ModelStreamInfer call: a reader that admits requests, and one writer for all their answers.

Requests to ordinary models are answered in the order of their arrival, those to decoupled models as
responses come. A request that fails is answered in-band and the stream goes on.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial

from penstock.admission import TYPED_METADATA, metadata_flag
from penstock.codec.encode import encode_stream_response
from penstock.codec.heavy import is_heavy
from penstock.interceptors import shutting_down
from penstock.status import public_error
from penstock.stream_answers import error_message, final_message_of, log_request
from penstock.stream_pressure import Pressure, StallWatch
from penstock.stream_request import Message, StreamRequest
from penstock.transport.base import Call
from penstock.workshop import Workshop
from penstock_runtime.errors import Internal, PenstockError

TRUE_STATUS_METADATA = "triton_grpc_error"
# Responses that one request may write before the next one has its turn.
_TURN = 16


class StreamSession:
    """The state of one stream. Lives on the loop; producers reach it through their requests."""

    def __init__(self, shop: Workshop, call: Call) -> None:
        metadata = call.metadata
        self._shop = shop
        self._call = call
        self._typed = metadata_flag(metadata, TYPED_METADATA)
        self._true_status = metadata_flag(metadata, TRUE_STATUS_METADATA)
        self._headers = shop.admission.headers(metadata)
        self._deadline_ns = call.deadline_ns
        self._open: set[StreamRequest] = set()
        self._order: deque[StreamRequest] = deque()
        self._ready: deque[StreamRequest] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._pressure = Pressure(shop.limits.max_unsent_bytes)
        self._reader: asyncio.Task[None] | None = None
        self._reading = False
        self._draining = False

    async def run(self, messages: AsyncIterator[bytes]) -> None:
        """Answer every message; ends once the caller is done and all is answered."""
        stall = StallWatch(self._call, self._shop.limits.stall_s, self._pressure)
        forget_gate = self._shop.gate.watch(self._on_gate_closed)
        reader = self._reader = asyncio.create_task(self._read(messages))
        reader.add_done_callback(self._reader_done)
        try:
            while not (reader.done() and not self._open):
                self._news.clear()
                if not self._ready:
                    await self._news.wait()
                while self._ready:
                    await self._turn(self._ready.popleft(), stall)
            self._raise_why_reading_ended(reader)
        finally:
            forget_gate()
            stall.stop()
            self._close(reader)

    def _close(self, reader: "asyncio.Task[None]") -> None:
        """Give everything back, whatever ended the stream: what is in flight is cancelled."""
        reader.cancel()
        self._order.clear()
        for request in tuple(self._open):
            self._done(request, "CANCELLED")
        self._pressure.release()

    # -- reading ---------------------------------------------------------------------------------

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        iterator = aiter(messages)
        while not self._draining:
            self._reading = True
            try:
                data = await anext(iterator)
            except StopAsyncIteration:
                return
            finally:
                self._reading = False
            await self._admit(data)
            while self._is_full() and not self._draining:
                self._room.clear()
                await self._room.wait()

    def _is_full(self) -> bool:
        return len(self._open) >= self._shop.limits.max_inflight or self._pressure.over

    def _on_gate_closed(self) -> None:
        self._draining = True
        self._room.set()
        self._news.set()
        # Interrupted only while it waits for a message: a request half admitted is finished.
        if self._reader is not None and self._reading:
            self._reader.cancel()

    def _reader_done(self, reader: "asyncio.Task[None]") -> None:
        if not reader.cancelled():
            # Looked at, or asyncio complains when the stream ended for another reason.
            reader.exception()
        self._news.set()

    def _raise_why_reading_ended(self, reader: "asyncio.Task[None]") -> None:
        if self._draining:
            raise shutting_down()
        reader.result()

    async def _admit(self, data: bytes) -> None:
        shop = self._shop
        request = StreamRequest(
            shop.inbox, self, self._pressure, len(data), time.monotonic_ns(), self._typed
        )
        self._open.add(request)
        try:
            shop.budget.take(request.size)
            request.charged = True
            admit = partial(shop.admission.admit, tell=request.note_decoupled)
            deadline_ns = self._deadline_ns
            if is_heavy(data):
                await shop.aside(admit, data, request, request, deadline_ns, self._headers)
            else:
                admit(data, request, request, deadline_ns, self._headers)
        except Exception as error:
            request.fail(public_error(error))
        request.admitted = True
        if not request.decoupled:
            self._order.append(request)
        self.changed(request)

    # -- writing ---------------------------------------------------------------------------------

    def changed(self, request: StreamRequest) -> None:
        """A request has something new; one that has to wait for its turn is looked at then."""
        if request.listed or request.done or not request.admitted:
            return
        if request.decoupled or request.answered or self._order[0] is request:
            request.listed = True
            self._ready.append(request)
            self._news.set()

    async def _turn(self, request: StreamRequest, stall: StallWatch) -> None:
        """Write what a request has to say now, up to a bound, so that others get their turn."""
        write = self._call.write
        request.listed = False
        for _ in range(_TURN):
            message = request.next_data() if request.decoupled else None
            if message is None:
                message = self._next(request)
                if message is None:
                    return
            stall.writing = True
            await write(message)
            stall.writing = False
            stall.written += 1
        self.changed(request)

    def _next(self, request: StreamRequest) -> bytes | None:
        """The next message about a request; None when there is nothing to say now."""
        while not request.done:
            try:
                message = request.next_message()
            except Exception as error:
                return self._failed(request, public_error(error))
            if message is None:
                return self._ended(request) if request.exhausted else None
            data = self._told(request, message)
            if data is not None:
                return data
        return None

    def _told(self, request: StreamRequest, message: Message) -> bytes | None:
        """What the caller gets to see of a message, and what follows for its request."""
        request.response = message.response
        data = message.data
        if request.decoupled:
            request.final_said = over = message.final
        else:
            data = None if request.answered else data
            over = request.exhausted
        if data is not None:
            request.answered = not request.decoupled
            request.responses += 1
            request.sent_bytes += len(data)
        if over:
            self._done(request, "OK")
        elif data is not None and not request.decoupled:
            self._release_order(request)
        return data

    def _failed(self, request: StreamRequest, error: PenstockError) -> bytes | None:
        told = request.answered
        self._done(request, error.status.value)
        if told:
            return None
        if self._true_status:
            self._call.request = request.request
            raise error
        return error_message(error, request.request)

    def _ended(self, request: StreamRequest) -> bytes | None:
        if not request.decoupled and not request.answered:
            return self._failed(
                request, Internal("expected a single response, got 0", scheduled=True)
            )
        self._done(request, "OK")
        asked = request.request
        if asked is None or request.final_said or not request.wants_empty_final:
            return None
        return encode_stream_response(final_message_of(asked), final=True)

    # -- bookkeeping -----------------------------------------------------------------------------

    def _release_order(self, request: StreamRequest) -> None:
        """Let the request after this one write, if this one was what it waited for."""
        if self._order and self._order[0] is request:
            self._order.popleft()
            if self._order:
                self.changed(self._order[0])

    def _done(self, request: StreamRequest, code: str) -> None:
        """The last of a request: nothing of it stays behind."""
        if request.done:
            return
        request.done = True
        request.drop()
        self._open.discard(request)
        if request.charged:
            self._shop.budget.give(request.size)
        self._release_order(request)
        self._room.set()
        if self._shop.access.enabled:
            log_request(self._shop.access, request, code, self._call)
