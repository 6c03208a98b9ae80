"""One execution for the response cache: the stream that is answered in place of the request's own,
and those who wait for the same answer.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferResponse, Timing
from penstock_runtime.response_cache import Kept
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.ordering import Answer
from penstock_runtime.stream import OneOutput, ResponseStream
from penstock_runtime.tensor import Tensor, materialize, raw_bytes


class Caller:
    """A request on its way: `order` is its number, `key` that of its answer (None: it is executed
    whatever others ask), `lookup_ns` how long the look into the cache took that began at
    `begun_ns`.
    """

    __slots__ = ("begun_ns", "key", "lookup_ns", "order", "pending")

    def __init__(self, pending: Pending, order: int, key: bytes | None, begun_ns: int) -> None:
        self.pending = pending
        self.order = order
        self.key = key
        self.begun_ns = begun_ns
        self.lookup_ns = 0

    @property
    def depth(self) -> int:
        """How many requests it is made inside."""
        return self.pending.depth


class Tower(Protocol):
    """Whoever is told how a flight ended."""

    def landed(self, flight: "Flight", response: InferResponse | None, answer: Answer) -> None:
        """There is a response (None: one that is for nobody else); `answer` gives it to the caller
        that is executed.
        """

    def failed(self, flight: "Flight", error: PenstockError | None) -> None:
        """There will be none: an error, or an end without a response."""


class Flight(ResponseStream):
    """The stream of a request that is executed; its answer may be for others as well."""

    def __init__(self, tower: Tower, caller: Caller) -> None:
        target = caller.pending.stream
        super().__init__(target.inbox)
        self.caller = caller
        self.followers: dict[Pending, Caller] = {}
        self.wants_timing = target.wants_timing
        self.placed = target.placed
        self._tower = tower
        self._target = target
        self._begun = False

    def pending(self) -> Pending:
        """What is queued: the caller's request, answered here."""
        of = self.caller.pending
        made = Pending(
            of.request, self, of.arrays, of.batch_size, of.arrived_ns, of.signature, of.length
        )
        made.deadline_ns = of.deadline_ns
        return made

    def put(self, response: InferResponse) -> bool:
        """Pass the response on, to everyone if it is the only one."""
        target = self._target
        if not response.final:
            self._begun = True
            return target.put(response)
        return self._land(response, partial(target.put, response))

    def ready(self, response: InferResponse) -> Answer:
        """As the caller's stream; it is for everyone once it is given."""
        return partial(self._land, response, self._target.ready(response))

    def put_only(self, kind: OneOutput, identity: str, array: Any, timing: Timing | None) -> bool:
        """As `put`; the stream of the caller may have a shorter way to encode it."""
        tensors = (Tensor(kind.output, kind.datatype, array.shape, array),)
        response = InferResponse(kind.model_name, kind.model_version, identity, tensors)
        return self._land(response, partial(self._target.put_only, kind, identity, array, timing))

    def _land(self, response: InferResponse, answer: Answer) -> bool:
        if not self._finish():
            return False
        # A model that sees that its caller is gone may end with anything.
        alone = self._begun or self.cancelled or response.empty or response.parameters
        self._tower.landed(self, None if alone else response, answer)
        return not self.cancelled

    def fail(self, error: PenstockError) -> bool:
        """Pass the error on to the caller; the others are seen to."""
        if self._finish():
            self._tower.failed(self, error)
            return True
        # It has landed, but the caller's stream would not take the answer.
        return self._target.fail(error)

    def close(self) -> bool:
        """As `fail`, without an error."""
        if self._finish():
            self._tower.failed(self, None)
            return True
        return False

    def _finish(self) -> bool:
        """Whether this is the first end."""
        with self._lock:
            first, self._ended = not self._ended, True
        return first

    def end_caller(self, error: PenstockError | None) -> object:
        """Give the caller its last answer, an error or none."""
        return self._target.close() if error is None else self._target.fail(error)

    def cancel(self) -> None:
        """The caller gave up: what is executed for it is told."""
        if self._give_up() and self._on_cancel is not None:
            self._on_cancel()

    def give_up(self, _: Pending) -> None:
        """As `cancel`, for whom the request is to call."""
        self.cancel()

    def soon(self, callback: Callable[[], None]) -> None:
        """As the caller's stream does."""
        self._target.soon(callback)

    def wait_for_room(self, timeout_s: float) -> bool:
        """As the caller's stream does."""
        return self._target.wait_for_room(timeout_s)

    def __repr__(self) -> str:
        state = "landed" if self._ended else "in the air"
        return f"<Flight {state}, {len(self.followers)} followers>"


def keep(response: InferResponse, limit_bytes: int) -> Kept | None:
    """The response as it can be given to others; None if it is larger than that, or not whole.

    Copied: the model may use its arrays again, and a view would keep the whole batch alive.
    """
    kept: list[Tensor] = []
    for output in response.outputs:
        raw = raw_bytes(output)
        limit_bytes -= len(raw)
        if limit_bytes < 0 or not _whole(output, len(raw)):
            return None
        copied = output._replace(array=bytes(raw))
        # Strings stay as they go out: they would have to be cut and joined again for every caller.
        kept.append(copied if output.datatype is DataType.BYTES else materialize(copied))
    return Kept(tuple(kept))


def _whole(output: Tensor, size: int) -> bool:
    """Whether the data fills the shape; where it does not, the encoder will say so."""
    if output.datatype is DataType.BYTES:
        return output.is_raw or output.numpy().size == output.elements
    return size == output.datatype.size * output.elements


def take_late(flights: Iterable[Flight], now: int) -> tuple[list[Caller], int | None]:
    """Those who must not wait any longer, taken out of their flights, and when to look again."""
    late: list[Caller] = []
    alarm: int | None = None
    for flight in flights:
        for pending, caller in list(flight.followers.items()):
            deadline = pending.deadline_ns
            if deadline is None:
                continue
            if deadline <= now:
                late.append(flight.followers.pop(pending, caller))
            else:
                alarm = deadline if alarm is None else min(alarm, deadline)
    return late, alarm
