"""One ModelStreamInfer call: a reader that admits requests, and one writer for all their answers.

Requests to ordinary models are answered in the order of their arrival (unless the stream is said to
be out of order), those to decoupled models as responses come. A request that fails is answered
in-band and the stream goes on. The call's own task only reads; what there is to say is written by
whoever brings the news, at the end of a turn of the loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from functools import partial

from penstock.auth.caller import permit_of
from penstock.codec.encode import encode_stream_response
from penstock.interceptors import shutting_down
from penstock.status import public_error
from penstock.stream_answers import error_message, final_message_of, log_request
from penstock.stream_pressure import Pressure, StallWatch
from penstock.stream_reader import StreamReader
from penstock.stream_request import StreamRequest
from penstock.stream_writer import StreamWriter
from penstock.transport.base import Buffer, Call
from penstock.wishes import (
    TRUE_STATUS_METADATA,
    TYPED_METADATA,
    UNORDERED_METADATA,
    metadata_flag,
)
from penstock.workshop import Workshop
from penstock_runtime.errors import DeadlineExceeded, Internal, InvalidArgument, PenstockError

# What one request may say before the next one has its turn, and what is written at once.
_TURN, _TURN_BYTES = 128, 64 << 10


class StreamSession:
    """The state of one stream. Lives on the loop; producers reach it through their requests."""

    __slots__ = (
        "_awaited",
        "_call",
        "_deadline_ns",
        "_draining",
        "_failure",
        "_flushing",
        "_full",
        "_headers",
        "_open",
        "_order",
        "_permit",
        "_pressure",
        "_reader",
        "_ready",
        "_shop",
        "_true_status",
        "_typed",
        "_unordered",
        "_writer",
    )

    def __init__(self, shop: Workshop, call: Call) -> None:
        metadata = call.metadata
        self._shop = shop
        self._call = call
        self._typed = metadata_flag(metadata, TYPED_METADATA)
        self._true_status = metadata_flag(metadata, TRUE_STATUS_METADATA)
        self._unordered = metadata_flag(metadata, UNORDERED_METADATA)
        self._headers = shop.admission.headers(metadata)
        self._permit = permit_of(call)
        self._deadline_ns = call.deadline_ns
        self._open: set[StreamRequest] = set()
        self._order: deque[StreamRequest] = deque()
        self._ready: deque[StreamRequest] = deque()
        self._awaited: list[StreamRequest] = []
        self._pressure = Pressure(shop.limits.max_unsent_bytes)
        stall = StallWatch(call, shop.limits.stall_s, self._pressure)
        self._writer = StreamWriter(call, stall, self._flush, self._stop)
        self._reader = StreamReader()
        self._failure: BaseException | None = None
        self._flushing = False
        self._full = False
        self._draining = False

    async def run(self, messages: AsyncIterator[Buffer]) -> None:
        """Answer every message; ends once the caller is done and all is answered."""
        forget_gate = self._shop.gate.watch(self._on_gate_closed)
        failure: Exception | None = None
        try:
            try:
                await self._read(aiter(messages))
            except Exception as error:
                # What was read before is answered first.
                failure = error
            while self._writer.blocked or (self._open and self._failure is None):
                await self._reader.news()
            self._raise(failure)
        finally:
            forget_gate()
            self._close()

    def _raise(self, failure: Exception | None) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise shutting_down()
        if failure is not None:
            raise failure
        # The engine may have noticed before the transport does: the caller gets the one status that
        # says so, not an OK.
        if self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns:
            raise DeadlineExceeded("Deadline Exceeded", reason="DEADLINE_EXPIRED")

    def _close(self) -> None:
        """Give everything back, whatever ended the stream: what is in flight is cancelled."""
        self._writer.close()
        self._order.clear()
        for request in tuple(self._open):
            self._done(request, "CANCELLED")
        self._pressure.release()

    # -- reading ---------------------------------------------------------------------------------

    async def _read(self, messages: AsyncIterator[Buffer]) -> None:
        reader, most = self._reader, self._shop.limits.max_inflight
        while (data := await reader.next(messages)) is not None:
            admitting = self._admit(data)
            if admitting is not None:
                await admitting
            while (len(self._open) >= most or self._pressure.over) and not reader.ending:
                self._full = True
                await reader.news()
            self._full = False

    def _on_gate_closed(self) -> None:
        self._draining = True
        self._reader.stop()

    def _stop(self, error: BaseException) -> None:
        """Nothing more can be written, or is to be."""
        if self._failure is None:
            self._failure = error
            self._reader.stop()

    def _wake_if_due(self) -> None:
        if self._full or not self._open:
            self._reader.wake()

    def _admit(self, data: Buffer) -> Awaitable[None] | None:
        """Take a request in; what is left to do if decoding it would hold up the loop."""
        shop = self._shop
        request = StreamRequest(
            shop.inbox,
            self,
            self._pressure,
            len(data),
            time.monotonic_ns(),
            self._typed,
            shop.access.enabled,
        )
        self._open.add(request)
        try:
            shop.budget.take(request.size)
            request.charged = True
            if shop.admission.is_heavy(data):
                return self._admit_aside(data, request)
            self._decode(data, request)
        except Exception as error:
            request.fail(public_error(error))
        self._admitted(request)
        return None

    async def _admit_aside(self, data: Buffer, request: StreamRequest) -> None:
        try:
            await self._shop.aside(self._decode, data, request)
        except Exception as error:
            request.fail(public_error(error))
        self._admitted(request)

    def _decode(self, data: Buffer, request: StreamRequest) -> None:
        tell = partial(self._tell, request) if self._unordered else request.note_decoupled
        admit = self._shop.admission.admit
        headers, permit, call = self._headers, self._permit, self._call
        deadline_ns = self._deadline_ns
        admit(data, request, request, deadline_ns, headers, tell=tell, permit=permit, call=call)

    def _tell(self, request: StreamRequest, decoupled: bool) -> None:
        """As `note_decoupled` out of order, where nobody could tell what an answer is for that has
        no id.
        """
        request.note_decoupled(decoupled)
        if not decoupled and request.request is not None and not request.request.id:
            raise InvalidArgument(
                "a request of a stream that is out of order needs an id, got none"
            )

    def _admitted(self, request: StreamRequest) -> None:
        request.admitted = True
        if not request.decoupled and not self._unordered:
            self._order.append(request)
        if request.ended or request.messages:
            self.changed(request)

    # -- writing ---------------------------------------------------------------------------------

    def changed(self, request: StreamRequest) -> None:
        """A request has something new; one that has to wait for its turn is looked at then."""
        if request.listed or request.done or not request.admitted:
            return
        free = request.decoupled or request.answered or self._unordered
        if free or self._order[0] is request:
            request.listed = True
            self._ready.append(request)
            if not self._flushing:
                self._flushing = True
                self._shop.inbox.soon(self._flush)

    def _flush(self) -> None:
        """Write what there is to say; what a full transport does not take waits until it does."""
        self._flushing = True
        while self._ready and self._failure is None and not self._writer.blocked:
            try:
                batch = self._gather()
            except Exception as error:
                self._stop(error)
                break
            # Told before the last is written, the task ends the call in the same turn of the loop,
            # and the transport need not write twice.
            self._wake_if_due()
            if batch:
                self._writer.write(batch)
        self._flushing = False
        self._wake_if_due()
        if self._awaited:
            # Not before the transport has written: a producer that goes on takes the interpreter.
            asyncio.get_running_loop().call_soon(self._let_go)

    def _let_go(self) -> None:
        awaited, self._awaited = self._awaited, []
        for request in awaited:
            request.let_go()

    def _gather(self) -> list[bytes]:
        """What the requests have to say, in turns, up to a bound."""
        ready = self._ready
        batch: list[bytes] = []
        room = _TURN_BYTES
        while ready and room > 0 and len(batch) < _TURN and self._failure is None:
            request = ready.popleft()
            # From here on the producer tells of what it adds.
            request.listed = False
            sent = request.sent_bytes
            if request.decoupled:
                self._speak(request, batch, room)
            else:
                self._answer(request, batch)
            room -= request.sent_bytes - sent
        return batch

    def _speak(self, request: StreamRequest, batch: list[bytes], room: int) -> None:
        """The turn of a decoupled request: what has come, and its end if that is reached."""
        # Looked at first: what is there once it has ended is all there is.
        ended = request.ended
        batch += request.take(_TURN - len(batch), room)
        if request.awaited:
            self._awaited.append(request)
        if request.messages:
            self.changed(request)
        elif ended:
            self._end(request, batch)

    def _answer(self, request: StreamRequest, batch: list[bytes]) -> None:
        """The turn of an ordinary request: its answer is the first response, whatever follows."""
        ended = request.ended
        if not request.answered and request.messages:
            batch.append(request.take_answer())
            self._release_order(request)
        if ended:
            self._end(request, batch)

    def _end(self, request: StreamRequest, batch: list[bytes]) -> None:
        error = request.error
        if error is not None:
            self._failed(request, error, batch)
        elif not request.decoupled and not request.answered:
            none = Internal("expected a single response, got 0", scheduled=True)
            self._failed(request, none, batch)
        else:
            self._done(request, "OK")
            asked = request.request
            if request.decoupled and request.wants_empty_final and not request.final_said:
                assert asked is not None
                batch.append(encode_stream_response(final_message_of(asked), final=True))

    def _failed(self, request: StreamRequest, error: PenstockError, batch: list[bytes]) -> None:
        told = request.answered
        self._done(request, error.status.value)
        if told:
            return
        if self._true_status:
            self._call.request = request.request
            self._stop(error)
        else:
            batch.append(error_message(error, request.request))

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
        if self._shop.access.enabled:
            log_request(self._shop.access, request, code, self._call)
