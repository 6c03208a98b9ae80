"""One request of a stream, which is also the stream of its responses: it counts what waits in it,
and tells its session rather than a coroutine of its own that something is new.

Responses are encoded in the thread that produced them, which has them at hand and keeps the loop
free for writing.
"""

from typing import NamedTuple, Protocol

from penstock.admission import TIMING_PARAMETER, wants_typed
from penstock.codec.encode import encode_stream_response
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock.status import public_error
from penstock.stream_pressure import Pressure
from penstock.timing import with_timing
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import Inbox, ResponseStream


class Session(Protocol):
    """Whoever writes the answers."""

    def changed(self, request: "StreamRequest") -> None:
        """A request has something new; called on the loop."""


class Message(NamedTuple):
    """A response as it goes out; `data` is None for an empty last one that nobody asked for, and
    `response` is there for the last one only, since it holds the arrays.
    """

    data: bytes | None
    final: bool
    size: int
    response: InferResponse | None


class StreamRequest(ResponseStream):
    """A request and where it stands.

    `admitted`: the session knows whether its model is decoupled. `listed`: it waits for its turn to
    write. `answered`: the one response of an ordinary model has been written. `final_said`: the
    caller knows that no more will come. `typed` is what the whole stream asked for.
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
        "typed",
    )

    def __init__(
        self,
        inbox: Inbox,
        session: Session,
        pressure: Pressure,
        size: int,
        received_ns: int,
        typed: bool,
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
        self.typed = typed

    def note_decoupled(self, decoupled: bool) -> None:
        """The model is known, and with it how its answers are told."""
        self.decoupled = decoupled

    def put(self, response: InferResponse) -> bool:
        """Encode a response, add it and count its bytes; from any thread."""
        try:
            data = self._encode(response)
        except Exception as error:
            return self.fail(public_error(error)) and False
        size = len(data) if data is not None else 0
        self._pressure.add(size)
        final = response.final
        accepted = self._add(Message(data, final, size, response if final else None), final)
        if not accepted:
            self._pressure.sub(size)
        return accepted

    def _encode(self, response: InferResponse) -> bytes | None:
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

    def next_data(self) -> bytes | None:
        """The next message if it is there, has data and is not the last: the ordinary case of a
        decoupled request.
        """
        items = self._items
        if not items or items[0].final or items[0].data is None:
            return None
        message: Message = self._take()
        self._pressure.sub(message.size)
        self.responses += 1
        self.sent_bytes += message.size
        return message.data

    def next_message(self) -> Message | None:
        """The next message that is there; None when there is none. Raises the stream's error."""
        message: Message | None = self._take()
        if message is not None:
            self._pressure.sub(message.size)
        return message

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
            while self.next_message() is not None:
                pass
        except PenstockError:
            # The error that follows the responses was told already, or nobody is there to hear it.
            return
