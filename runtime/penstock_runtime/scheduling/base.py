"""The words that schedulers and batchers share. Batchers decide and are pure; schedulers act.

Every time is a monotonic nanosecond that the caller passes in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.observability.tracing import Trace
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.queue_report import QueueReport
from penstock_runtime.stream import ResponseStream


class Pending:
    """A request that waits: what the batcher must know of it, and its arrays by input name.

    `batch_size` counts rows (1 without a batch dimension); `deadline_ns` is the caller's deadline
    and `timeout_ns` the queue policy's, both absolute; `signature` is equal for requests that may
    share a batch; `length` is what length-aware batching goes by; `all_outputs` says that the
    caller asked for no outputs in particular.
    """

    # Defaults of the class rather than slots: most requests never change most of them.
    arrays: Mapping[str, Any] = MappingProxyType({})
    batch_size = 1
    arrived_ns = 0
    deadline_ns: int | None = None
    timeout_ns: int | None = None
    signature: Any = None
    length = 0
    level = 1
    order = 0
    depth = 0
    """How many requests it is made inside."""
    delayed = False
    queued = False
    trace: Trace | None = None
    held: Callable[[], None] | None = None
    """Told that the caller gave up, once the request is in the hands of its model."""

    def __init__(
        self,
        request: InferRequest,
        stream: ResponseStream,
        arrays: Mapping[str, Any] = MappingProxyType({}),
        batch_size: int = 1,
        arrived_ns: int = 0,
        signature: Any = None,
        length: int = 0,
    ) -> None:
        self.request = request
        self.stream = stream
        self.arrays = arrays
        self.batch_size = batch_size
        self.arrived_ns = arrived_ns
        self.deadline_ns = request.deadline_ns
        self.signature = signature
        self.length = length
        self.id = request.id
        self.all_outputs = not request.outputs
        if request.trace is not None:
            self.trace = request.trace
        if request.depth:
            self.depth = request.depth

    def queued_at(self, cancel: "Callable[[Pending], None]") -> None:
        """The request was accepted: `cancel` is to be called if its consumer gives up."""
        self.stream.on_cancel(partial(cancel, self))

    def __repr__(self) -> str:
        return f"Pending(#{self.order}, rows={self.batch_size}, level={self.level})"


class Retired(Unavailable):
    """This version accepts nothing more; after a reload, the name already points to another one."""


Refused = tuple[Pending, PenstockError]


def submit_each(
    submit: Callable[[Pending], None], pendings: Iterable[Pending]
) -> Sequence[Refused]:
    """Submit one by one; those that were refused, and why."""
    refused: list[Refused] = []
    for pending in pendings:
        try:
            submit(pending)
        except PenstockError as error:
            refused.append((pending, error))
    return refused


@dataclass(frozen=True, slots=True)
class Dead:
    """A request that left the queue without being executed, and the error it gets."""

    pending: Pending
    error: PenstockError


@dataclass(frozen=True, slots=True)
class SequenceStats:
    """How many sequences have a slot, and how many wait for one."""

    live: int
    backlog: int


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The state of one queue: requests and rows that wait, and since when the oldest does (0:
    none); `sequences` where a model keeps those apart.
    """

    requests: int
    rows: int
    oldest_ns: int
    sequences: SequenceStats | None = None


@dataclass(frozen=True, slots=True)
class LevelStats:
    """What waits at one priority: requests, rows, and when the oldest arrived (0: none)."""

    priority: int
    requests: int = 0
    rows: int = 0
    oldest_ns: int = 0


class Batcher(Protocol):
    """Decides which requests are executed together, and when."""

    @property
    def alone(self) -> bool:
        """Whether every request is executed alone, and at once if an instance is free."""

    def add(self, pending: Pending, now: int) -> None:
        """Accept the request, or raise the error that refuses it."""

    def add_plain(self, pendings: Sequence[Pending]) -> bool:
        """Accept them all, in the order of their arrival; False, and none is accepted, where the
        queue might refuse one. Deadlines have been looked at.
        """

    def take(self, now: int) -> Sequence[Pending] | None:
        """The next batch if one should be executed now."""

    def take_alone(self, most: int) -> Sequence[Pending]:
        """Up to so many requests to execute one by one; none unless every one is `alone`."""

    def expire(self, now: int) -> list[Dead]:
        """Remove and return what must not be executed any more."""

    def cancel(self, pending: Pending) -> bool:
        """Remove a request that waits; False when it does not wait here."""

    def wake_at(self, now: int) -> int | None:
        """When to ask `take` or `expire` again if nothing arrives before; None for never."""

    def next_expiry(self) -> int | None:
        """When `expire` has something to do; None for never."""

    def rows_ahead(self, pending: Pending) -> int:
        """Rows that would be executed before a request that was not added yet (an estimate)."""

    def resize(self, instances: int) -> None:
        """So many instances take batches from now on."""

    def rows_per_batch(self) -> int:
        """The rows of a full batch, for predictions."""

    def stats(self) -> QueueStats:
        """What waits."""

    def levels(self) -> Sequence[LevelStats]:
        """What waits, by priority."""


class Scheduler(Protocol):
    """Accepts requests for one version of one model and sees to it that each gets its answer."""

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""

    def submit(self, pending: Pending) -> None:
        """Accept the request (answered through its stream), or raise the error that refuses it."""

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """As `submit` for each of them, at less cost; those that were refused, and why."""

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more and wait until all that was accepted is answered; False if time ran
        out.
        """

    def stop(self) -> None:
        """End the threads; what still waits is answered UNAVAILABLE."""

    def stats(self) -> QueueStats:
        """What waits."""

    def report(self) -> QueueReport:
        """What waits, by priority, and what the batcher makes of it."""
