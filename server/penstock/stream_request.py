"""One request of a stream, which is also the stream of its responses: it counts what waits in it,
and tells its session rather than a coroutine of its own that something is new.
"""

from typing import Protocol

from penstock.admission import TIMING_PARAMETER, wants_typed
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock.stream_pressure import Pressure
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import Inbox, ResponseStream


class Session(Protocol):
    """Whoever writes the answers."""

    def changed(self, request: "StreamRequest") -> None:
        """A request has something new; called on the loop."""


class StreamRequest(ResponseStream):
    """A request and where it stands.

    `admitted`: the session knows whether its model is decoupled. `listed`: it waits for its turn to
    write. `answered`: the one response of an ordinary model has been written. `final_said`: the
    caller knows that no more will come. `typed`, `timed` and `wants_empty_final` are its wishes.
    """

    __slots__ = (
        "_pressure",
        "_session",
        "admitted",
        "answered",
        "charged",
        "decoupled",
        "done",
        "final_said",
        "listed",
        "received_ns",
        "request",
        "response",
        "responses",
        "sent_bytes",
        "size",
        "timed",
        "typed",
        "wants_empty_final",
    )

    def __init__(
        self, inbox: Inbox, session: Session, pressure: Pressure, size: int, received_ns: int
    ) -> None:
        super().__init__(inbox)
        self._session = session
        self._pressure = pressure
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
        self.timed = False
        self.typed = False
        self.wants_empty_final = False

    def read_wishes(self, typed: bool) -> None:
        """Note how the caller wants the answers; `typed` is what the whole stream asked for."""
        self.typed = typed
        if self.request is not None and self.request.parameters:
            parameters = self.request.parameters
            self.typed = wants_typed(self.request, typed)
            self.timed = bool(parameters.get(TIMING_PARAMETER))
            self.wants_empty_final = bool(parameters.get(EMPTY_FINAL_RESPONSE))

    def put(self, response: InferResponse) -> bool:
        """Add a response and count its bytes; from any thread."""
        self._pressure.add(response)
        accepted = super().put(response)
        if not accepted:
            self._pressure.sub(response)
        return accepted

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block the producing thread while too much is unsent, here or in the whole stream."""
        return super().wait_for_room(timeout_s) and self._pressure.wait(timeout_s)

    def wake(self) -> None:
        """Something is new."""
        self._session.changed(self)

    def drop(self) -> None:
        """Forget what has not been sent; nothing comes after it."""
        if not self.ended:
            self.cancel()
        try:
            while (response := self.pop()) is not None:
                self._pressure.sub(response)
        except PenstockError:
            # The error that follows the responses was told already, or nobody is there to hear it.
            return
