"""One request of a stream, which is also the stream of its responses: it keeps what waits in it as
messages, counts it, and tells its session rather than a coroutine of its own that something is new.

Responses are encoded in the thread that produced them, which has them at hand and keeps the loop
free for writing.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, Protocol

from penstock.codec.encode import encode_only, encode_stream_response, in_stream
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock.status import public_error
from penstock.stream_lane import make_lane, open_lane
from penstock.stream_pressure import UNCOUNTED_BYTES, Pressure
from penstock.timing import with_timing
from penstock.wishes import TIMING_PARAMETER, wants_typed
from penstock_runtime.errors import Cancelled, PenstockError
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.stream import UNSENT_LIMIT, Inbox, OneOutput
from penstock_runtime.stream_lane import Lane, LaneStream


class Session(Protocol):
    """Whoever writes the answers."""

    def changed(self, request: "StreamRequest") -> None:
        """A request has something new; called on the loop."""


class StreamRequest(LaneStream):
    """A request and where it stands.

    `messages` wait to be written; the producer only appends, the consumer only takes from the
    front, so neither needs a lock. `admitted`: the session knows whether its model is decoupled.
    `listed`: it waits for its turn to write. `answered`: the one response of an ordinary model has
    been taken. `final_said`: the last message says that it is the last. `response` is the last one,
    unless it took a short way. `typed` is what the whole stream asked for; `timed`: someone wants
    the timing of every request.
    """

    __slots__ = (
        "_example",
        "_gate",
        "_pressure",
        "_session",
        "admitted",
        "answered",
        "charged",
        "decoupled",
        "done",
        "final_said",
        "listed",
        "messages",
        "received_ns",
        "request",
        "response",
        "responses",
        "sent_bytes",
        "size",
        "timed",
        "typed",
        "wants_timing",
    )

    def __init__(
        self,
        inbox: Inbox,
        session: Session,
        pressure: Pressure,
        size: int,
        received_ns: int,
        typed: bool,
        timed: bool = True,
    ) -> None:
        super().__init__(inbox)
        self._session = session
        self._pressure = pressure
        self._example: bytes | None = None
        self._gate: Gate | None = None
        self.messages: list[bytes] = []
        self.size = size
        self.received_ns = received_ns
        self.request: InferRequest | None = None
        self.response: InferResponse | None = None
        self.responses = 0
        self.sent_bytes = 0
        self.admitted = False
        self.answered = False
        self.charged = False
        self.decoupled = False
        self.done = False
        self.final_said = False
        self.listed = False
        self.typed = typed
        self.timed = self.wants_timing = timed

    def note_decoupled(self, decoupled: bool) -> None:
        """The model is known, and with it how its answers are told."""
        self.decoupled = decoupled
        # Without parameters nobody asks for the timing.
        self.wants_timing = self.timed or (
            self.request is not None and bool(self.request.parameters)
        )

    # -- producer side: any thread ---------------------------------------------------------------

    def put(self, response: InferResponse) -> bool:
        """Encode a response and add it; from any thread."""
        try:
            data = self._encode(response)
        except Exception as error:
            return self.fail(public_error(error)) and False
        return self._append(data, response, response.final)

    def put_only(self, kind: OneOutput, identity: str, array: Any, timing: Timing | None) -> bool:
        """Encode the answer of an ordinary model in place; the unusual goes through `put`."""
        # Without timing, nothing else was asked for either.
        if timing is None and not self.typed and not self.decoupled:
            data = encode_only(kind, identity, array)
            if data is not None:
                return self._append(in_stream(data), None, final=True)
        return super().put_only(kind, identity, array, timing)

    def _append(self, data: bytes | None, response: InferResponse | None, final: bool) -> bool:
        with self._lock:
            if self._ended or self.cancelled:
                self._ended = self._ended or final
                return False
            if data is not None:
                if len(data) > UNCOUNTED_BYTES:
                    self._pressure.add(len(data))
                self.messages.append(data)
            if final:
                self.response = response
                self.final_said = data is not None
                self._ended = True
                self._on_cancel = None
        self._example = data
        self._tell()
        return True

    def _encode(self, response: InferResponse) -> bytes | None:
        """The message; None for an empty last one that nobody asked for."""
        request, typed = self.request, self.typed
        if request is not None and request.parameters:
            typed = wants_typed(request, typed)
            if request.parameters.get(TIMING_PARAMETER):
                response = with_timing(request, response)
        if not self.decoupled:
            return None if response.empty else encode_stream_response(response, typed)
        if response.empty and not self.wants_empty_final:
            return None
        return encode_stream_response(response, typed, response.final)

    @property
    def wants_empty_final(self) -> bool:
        """Whether the caller asked for a last message even if it is empty."""
        request = self.request
        return request is not None and bool(request.parameters.get(EMPTY_FINAL_RESPONSE))

    def lane(self, like: InferResponse) -> Lane | None:
        """A way for responses that differ from this one, which has just been put, in their data."""
        example, self._example = self._example, None
        if example is None or like.parameters or not self._is_plain():
            return None
        return make_lane(self, self._pressure, like, example)

    def open_lane(self, kind: OneOutput, shape: tuple[int, ...]) -> Lane | None:
        """A way for responses that have one output of this shape."""
        if self.request is None or not self._is_plain():
            return None
        return open_lane(self, kind, self.request.id, shape)

    def _is_plain(self) -> bool:
        """Whether responses differ in nothing but their outputs, and those are raw."""
        request = self.request
        if request is None or not self.decoupled:
            return False
        return not (wants_typed(request, self.typed) or request.parameters.get(TIMING_PARAMETER))

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block the producing thread while too much is unsent, here or in the whole stream."""
        messages = self.messages
        if len(messages) >= UNSENT_LIMIT and not self.cancelled:
            gate = self._gate = Gate()
            # Looked at again, or a reader that was faster would never be noticed.
            full = len(messages) >= UNSENT_LIMIT and not self.cancelled
            let = not full or gate.wait(timeout_s)
            self._gate = None
            if not let:
                return False
        return self._pressure.wait(timeout_s)

    def give_way(self, timeout_s: float) -> None:
        """Let the loop take what waits for it, if it was told and had no chance to look yet."""
        if self.posted and len(self.messages) > 1:
            gate = self._gate = Gate()
            if self.posted and not self.cancelled:
                gate.wait(timeout_s)
            self._gate = None

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back; at once where requests are not executed together and nothing is gained by
        waiting for more of them.
        """
        if self.decoupled:
            callback()
        else:
            super().soon(callback)

    # -- consumer side: the loop -----------------------------------------------------------------

    @property
    def error(self) -> PenstockError | None:
        """What ended the request instead of its last response."""
        with self._lock:
            error = self._error
        if error is None and self.cancelled:
            return Cancelled("the request was cancelled", scheduled=True)
        return error

    def take(self, count: int, size: int) -> list[bytes]:
        """The next messages, so many and of so many bytes at most; one at least if there is any."""
        messages = self.messages
        chunk = messages[:count]
        sizes = list(map(len, chunk))
        total = sum(sizes)
        if total > size and len(chunk) > 1:
            fitting = sum(sent <= size for sent in accumulate(sizes))
            chunk, sizes = chunk[: max(fitting, 1)], sizes[: max(fitting, 1)]
            total = sum(sizes)
        del messages[: len(chunk)]
        self._uncount(sizes)
        self.responses += len(chunk)
        self.sent_bytes += total
        return chunk

    def take_answer(self) -> bytes:
        """The first message, which is there, and is all that is told of an ordinary request."""
        message = self.messages.pop(0)
        size = len(message)
        self._pressure.sub(size)
        self.answered = True
        self.responses = 1
        self.sent_bytes = size
        return message

    @property
    def awaited(self) -> bool:
        """Whether the producer waits, and there is room for it to go on."""
        # Half empty before it is woken: one wake-up for many responses, not for each.
        return self._gate is not None and len(self.messages) <= UNSENT_LIMIT // 2

    def let_go(self) -> None:
        """Let the producer go on."""
        # Only the producer sets it: taken off here, the next one could be lost.
        gate = self._gate
        if gate is not None:
            gate.open()

    def _uncount(self, sizes: list[int]) -> None:
        if sizes and max(sizes) > UNCOUNTED_BYTES:
            self._pressure.sub(sum(size for size in sizes if size > UNCOUNTED_BYTES))

    def wake(self) -> None:
        """Something is new."""
        self._session.changed(self)

    def forget(self) -> None:
        """Drop what waits to be sent; from any thread."""
        messages = self.messages
        # Both sides may come here at once, when a producer was late.
        with self._lock:
            while chunk := messages[:]:
                del messages[: len(chunk)]
                self._uncount(list(map(len, chunk)))

    def drop(self) -> None:
        """Forget what has not been sent; nothing comes after it. `done` has been set."""
        if not self._ended:
            self.cancel()
        if self.messages:
            self.forget()
        self.let_go()
