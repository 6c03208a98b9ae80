"""The responses of one request, from any thread to whoever waits for them. A unary call is a stream
of one.

Producers `put`, `fail` and `close` from any thread. The consumer lives on an event loop (`async
for`, `single`) or in a plain thread (`collect`). Exactly one terminal event counts; later ones are
dropped, so nothing is answered twice. A `LoopInbox` gathers what many threads produced and wakes
its loop once.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Cancelled, Internal, PenstockError
from penstock_runtime.request import EMPTY, InferResponse, Timing
from penstock_runtime.tensor import Tensor

UNSENT_LIMIT = 256


@dataclass(frozen=True, slots=True, eq=False)
class OneOutput:
    """What the responses of a model with one output have in common; one object per model, which is
    equal to nothing but itself.
    """

    model_name: str
    model_version: str
    output: str
    datatype: DataType


class Inbox(Protocol):
    """Told, from any thread, that a stream has something new."""

    def post(self, stream: "ResponseStream") -> None:
        """Wake whoever consumes the stream."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once the calling thread has done what it is at; at the latest now."""


class ThreadInbox:
    """An inbox for a consumer that is a plain thread: it sets an event."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def post(self, stream: "ResponseStream") -> None:  # noqa: ARG002 - one inbox serves one stream
        """Set the event that `collect` waits for."""
        self.event.set()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back now."""
        callback()


class _Held(threading.local):
    """The streams whose news this thread holds back, and since when; None while it holds none."""

    streams: "list[ResponseStream] | None" = None
    since_ns: int = 0


HELD = _Held()


class ResponseStream:
    """The answers to one request."""

    # Defaults of the class rather than slots: most streams never change most of them.
    _ended = False
    _error: PenstockError | None = None
    _waiter: "asyncio.Future[None] | None" = None
    _on_cancel: Callable[[], None] | None = None
    _room: threading.Event | None = None
    cancelled = False
    posted = False
    """The inbox's note that its loop will look at this stream anyway."""
    wants_timing = True
    """Whether anyone looks at the timing of a response."""
    placed = False
    """Whether outputs have places, which they may not fit."""

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.inbox: Inbox = inbox if inbox is not None else ThreadInbox()
        # Responses; a subclass may put what it made of them instead.
        self._items: deque[Any] = deque()
        self._lock = threading.Lock()

    # -- producer side: any thread ---------------------------------------------------------------

    def put(self, response: InferResponse) -> bool:
        """Add a response; `response.final` ends the stream. False when nobody will read it."""
        return self._add(response, response.final)

    def ready(self, response: InferResponse) -> Callable[[], object]:
        """What gives this response, the last of its request. Raises what keeps it from being given,
        so that a request can be counted by what becomes of it, before it has its answer.
        """
        return partial(self.put, response)

    def put_only(self, kind: "OneOutput", identity: str, array: Any, timing: Timing | None) -> bool:
        """Add the one response there will be, which has one output and no parameters; as `put`.

        `identity` is the request's id.
        """
        name, version = kind.model_name, kind.model_version
        tensors = (Tensor(kind.output, kind.datatype, array.shape, array),)
        return self.put(InferResponse(name, version, identity, tensors, EMPTY, True, False, timing))

    def _add(self, item: Any, final: bool) -> bool:
        with self._lock:
            if self._ended or self.cancelled:
                self._ended = self._ended or final
                return False
            self._items.append(item)
            self._ended = final
        if final:
            self._on_cancel = None
        self._tell()
        return True

    def fail(self, error: PenstockError) -> bool:
        """End with an error. False when the stream had ended already."""
        return self._end(error)

    def close(self) -> bool:
        """End without a further response. False when the stream had ended already."""
        return self._end(None)

    def _end(self, error: PenstockError | None) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._ended, self._error = True, error
        self._on_cancel = None
        self._tell()
        return True

    def _tell(self) -> None:
        held = HELD.streams
        if held is None:
            self.inbox.post(self)
        else:
            held.append(self)

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block the producing thread while too much is unsent; False when no reader took any in
        time.
        """
        if len(self._items) < UNSENT_LIMIT or self.cancelled:
            return True
        room = self._room = self._room or threading.Event()
        room.clear()
        # Looked at again after clear(), or a reader that was faster would never be noticed.
        if len(self._items) < UNSENT_LIMIT or self.cancelled:
            return True
        return room.wait(timeout_s)

    def post(self) -> None:
        """Wake the consumer."""
        self.inbox.post(self)

    # -- both sides ------------------------------------------------------------------------------

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back once the thread that submits has done what it is at."""
        self.inbox.soon(callback)

    @property
    def ended(self) -> bool:
        """Whether the last response, an error or a close has been put."""
        return self._ended

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this if the consumer gives up; at once if it already has. Twice is possible."""
        # In this order, and the other way round in `cancel`: one of the two sees the other.
        self._on_cancel = callback
        if self.cancelled:
            callback()
        if self._ended:
            # What was queued knows its stream: both, with all their bytes, would wait for a
            # collection. Whoever ends the stream lets go of it too.
            self._on_cancel = None

    def cancel(self) -> None:
        """The consumer gives up; the producer is told. Safe from any thread, and more than once."""
        if not self._give_up():
            return
        if self._room is not None:
            self._room.set()
        if self._on_cancel is not None:
            self._on_cancel()
        self.inbox.post(self)

    def _give_up(self) -> bool:
        """Mark the stream as cancelled; False if it is already, or has ended."""
        with self._lock:
            if self.cancelled or self._ended:
                return False
            self.cancelled = True
        return True

    # -- consumer side ---------------------------------------------------------------------------

    def wake(self) -> None:
        """Resume the coroutine that waits, if one does (on its loop only)."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wake_all(self, streams: "Sequence[ResponseStream]") -> None:
        """Wake all these, of which this is the first: a kind that can do it at less cost may."""
        for stream in streams:
            stream.wake()

    def pop(self) -> InferResponse | None:
        """The next response that is there already; None when there is none. Raises the stream's
        error.
        """
        response: InferResponse | None = self._take()
        return response

    def _take(self) -> Any:
        if self._items:
            item = self._items.popleft()
            # Half empty before the producer is woken: one wake-up for many responses, not for each.
            if self._room is not None and len(self._items) <= UNSENT_LIMIT // 2:
                self._room.set()
            return item
        if self._error is not None:
            raise self._error
        if self.cancelled:
            raise Cancelled("the request was cancelled", scheduled=True)
        return None

    @property
    def exhausted(self) -> bool:
        """Whether every response has been taken and none will come."""
        return self._ended and not self._items and self._error is None

    async def next(self) -> InferResponse | None:
        """The next response, or None at the end. Raises the stream's error."""
        while (response := self.pop()) is None:
            if self.exhausted:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            # A response put before the waiter was there posted to nobody: look once more.
            if self._items or self._ended:
                self._waiter = None
                continue
            await self._waiter
        return response

    async def single(self) -> InferResponse:
        """The one response of a unary call; Internal when the model gave none or several."""
        first = await self.next()
        if first is None:
            raise Internal("expected a single response, got 0", scheduled=True)
        count = 1
        while not (first.final and count == 1) and (await self.next()) is not None:
            count += 1
        if count > 1:
            raise Internal(f"expected a single response, got {count}", scheduled=True)
        return first

    async def __aiter__(self) -> AsyncIterator[InferResponse]:
        while (response := await self.next()) is not None:
            yield response

    def collect(self, timeout_s: float = 30.0) -> list[InferResponse]:
        """Every response, for a consumer that is a thread (its inbox a ThreadInbox)."""
        if not isinstance(self.inbox, ThreadInbox):
            raise TypeError("collect() needs a stream whose inbox is a ThreadInbox")
        responses: list[InferResponse] = []
        while True:
            self.inbox.event.clear()
            while (response := self.pop()) is not None:
                responses.append(response)
            if self.exhausted:
                return responses
            if not self._ended and not self.inbox.event.wait(timeout_s):
                raise TimeoutError(f"no response within {timeout_s} s")

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "ended" if self._ended else "open"
        return f"<ResponseStream {state}, {len(self._items)} unsent>"
