"""A quick call's request: the stream of its one answer, and, where the request is like one that was
seen before, also what waits in the queue. One object instead of five.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from penstock.codec.encode import encode_only
from penstock.codec.templates import Template
from penstock.load_report import ASKED
from penstock.tracer import Plan
from penstock.transport.base import QuickCall
from penstock.wishes import TYPED_METADATA
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import Inbox, OneOutput, ResponseStream


class Lane(Protocol):
    """Whoever answers the calls; lives on the loop."""

    @property
    def inbox(self) -> Inbox:
        """Told when an answer is there."""

    @property
    def lock(self) -> Any:
        """Guards the answers of all the lane's requests: held for a few assignments only."""

    @property
    def timed(self) -> bool:
        """Whether anyone wants to know the timing of every request."""

    def send(self, request: "UnaryRequest", message: bytes) -> None:
        """End the call with this message."""

    def send_all(self, streams: Sequence[ResponseStream]) -> None:
        """As `wake` for each of these, which may be of any kind."""

    def respond(self, request: "UnaryRequest", response: InferResponse) -> None:
        """End the call with this response."""

    def refuse(self, request: "UnaryRequest", error: Exception) -> None:
        """End the call with this error."""

    def abandon(self, request: "UnaryRequest") -> None:
        """The caller is gone."""


class UnaryRequest(ResponseStream, Pending):
    """One quick call, from its bytes to its answer.

    `entered`: it is counted among the calls inside. `closed`: the call is over. What it needs only
    as a `Pending` is set when it is queued as one.
    """

    entered = False
    closed = False
    id = ""
    all_outputs = True
    _template: Template | None = None
    _made: InferRequest | None = None
    message: bytes | None = None
    """The answer as it goes out, if it was encoded where it was made."""
    _first: InferResponse | None = None
    _count = 0
    _cancel: Callable[[Pending], None] | None = None
    verdict: Plan | bool = True
    """How it is traced, False if it is not; True while nobody has asked."""

    def __init__(self, lane: Lane, call: QuickCall, data: Any, now_ns: int) -> None:
        # Neither base is initialised: this is made for every call, and sets what it needs. What is
        # looked at often is set although it equals the class's: that is found faster.
        self.cancelled = self.closed = self.posted = self._ended = False
        self.message = None
        self.inbox = lane.inbox
        self._lock = lane.lock
        self.lane = lane
        self.call = call
        self.data = data
        self.size = len(data)
        self.arrived_ns = now_ns

    # -- as what waits in the queue --------------------------------------------------------------

    def become(
        self, template: Template, identity: str, known: tuple[Any, ...], deadline_ns: int | None
    ) -> None:
        """Be a pending request of the template's kind; `known` is what its model remembers."""
        self._template = template
        self.id = identity
        if template.envelope.outputs:
            self.all_outputs = False
        # Without parameters nobody asks for the timing, nor for any other form of the answer.
        self.wants_timing = self.lane.timed or bool(template.options.parameters)
        self.batch_size, self.signature, self.length, shapes = known
        arrays: Mapping[str, Any] = template.arrays(self.data)
        if shapes is not None:
            arrays = {name: array.reshape(shapes[name]) for name, array in arrays.items()}
        self.arrays = arrays
        if deadline_ns is not None:
            self.deadline_ns = deadline_ns

    @property
    def stream(self) -> ResponseStream:  # type: ignore[override] # read-only, and no cycle
        """Itself."""
        return self

    @property  # type: ignore[override] # made when asked for
    def request(self) -> InferRequest | None:
        """The request, if it has been decoded."""
        if self._made is None and self._template is not None:
            self._made = self._template.request(
                self.data, self.id, self.arrived_ns, self.deadline_ns
            )
        return self._made

    @request.setter
    def request(self, request: InferRequest | None) -> None:
        self._made = request

    def queued_at(self, cancel: Callable[[Pending], None]) -> None:
        """The request was accepted: `cancel` is to be called if its consumer gives up."""
        self._cancel = cancel
        if self.cancelled:
            cancel(self)

    # -- as the stream of its answer -------------------------------------------------------------

    def put_only(self, kind: OneOutput, identity: str, array: Any, timing: Timing | None) -> bool:
        """Encode the answer where it was made; whatever is unusual becomes a response."""
        message = None
        # Without timing, nothing else was asked for either: see `become`.
        if timing is None:
            metadata = self.call.metadata
            if TYPED_METADATA not in metadata and ASKED not in metadata:
                message = encode_only(kind, identity, array)
        if message is None:
            return super().put_only(kind, identity, array, timing)
        # Without the lock: a caller that gives up at this moment is told to at most one of the
        # two, and the loop, which closes the call, looks at both.
        if self._ended or self.cancelled:
            self._ended = True
            return False
        self.message = message
        self._ended = True
        self._on_cancel = None
        self._tell()
        return True

    def _add(self, item: Any, final: bool) -> bool:
        with self._lock:
            if self._ended or self.cancelled:
                self._ended = self._ended or final
                return False
            if not self._count:
                self._first = item
            self._count += 1
            self._ended = final
        if final:
            self._on_cancel = None
        self._tell()
        return True

    def wait_for_room(self, timeout_s: float) -> bool:
        """There is room for the one answer."""
        del timeout_s
        return True

    def wake(self) -> None:
        """Something is there: answer the call once it has its one response, or its error."""
        if self.closed:
            return
        if self.message is not None:
            self.lane.send(self, self.message)
        elif self._ended or self.cancelled:
            self._answer()

    def wake_all(self, streams: Sequence[ResponseStream]) -> None:
        """As `wake` for each, at less cost for those that have their answer as a message."""
        self.lane.send_all(streams)

    def _answer(self) -> None:
        if self._error is not None:
            self.lane.refuse(self, self._error)
        elif self._count == 1 and self._first is not None:
            self.lane.respond(self, self._first)
        elif self._ended:
            text = f"expected a single response, got {self._count}"
            self.lane.refuse(self, Internal(text, scheduled=True))

    def cancel(self) -> None:
        """The consumer gives up; the producer is told. Safe from any thread, and more than once."""
        if not self._give_up():
            return
        if self._cancel is not None:
            self._cancel(self)
        elif self._on_cancel is not None:
            self._on_cancel()

    def abandon(self) -> None:
        """The caller is gone."""
        self.lane.abandon(self)

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "ended" if self._ended else "open"
        return f"<UnaryRequest {state}, {self.size} bytes>"
