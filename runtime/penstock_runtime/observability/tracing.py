"""Which requests are traced, and what is noted of those: when each step of their way was reached.

Pure: every time is a monotonic nanosecond that the caller passes in. Where a trace goes when it is
over is told to it when it is made.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from penstock_runtime.errors import Status
from penstock_runtime.observability.span_context import SpanContext, new_root
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_tensors import TensorBag
from penstock_runtime.tensor import Tensor

REQUEST_START, REQUEST_END = "REQUEST_START", "REQUEST_END"
QUEUE_START, COMPUTE_START, COMPUTE_END = "QUEUE_START", "COMPUTE_START", "COMPUTE_END"
COMPUTE_INPUT_END, COMPUTE_OUTPUT_START = "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"
RESPONSE = "INFER_RESPONSE_COMPLETE"
# A stream may have any number of responses; the first of them are noted, and all are counted.
MOST_RESPONSES = 1024
_OVERHEAD_BYTES = 2048
_RESPONSE_BYTES = 64

Attribute = str | int | bool | float | tuple[str, ...]


class Sampler:
    """Chooses one of `rate` requests, of the first so many the last as Triton does, until it has
    chosen `limit` of them (-1: for ever). Thread-safe.
    """

    __slots__ = ("_left", "_lock", "_passed", "rate")

    def __init__(self, rate: int, limit: int = -1) -> None:
        self.rate = rate
        self._left = limit
        self._passed = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """How many more it will choose; -1 for any number."""
        return self._left

    def take(self) -> bool:
        """Whether to trace the next request."""
        return bool(self.choose(1))

    def choose(self, number: int) -> Sequence[int]:
        """Which of the next so many requests to trace, counted from 0; mostly none."""
        with self._lock:
            first = self.rate - 1 - self._passed
            if number <= first:
                self._passed += number
                return ()
            self._passed = (self._passed + number) % self.rate
            return self._within(range(first, number, self.rate))

    def claim(self) -> bool:
        """Whether a request may be traced that somebody else has chosen."""
        with self._lock:
            return bool(self._within(range(1)))

    def _within(self, chosen: range) -> range:
        """As many of these as are left; under the lock."""
        if self._left < 0:
            return chosen
        kept = chosen[: self._left]
        self._left -= len(kept)
        return kept

    def __repr__(self) -> str:
        return f"Sampler(1 of {self.rate}, {self._left} left)"


class Execution(NamedTuple):
    """One execution of a batch; `members` are the spans of those of its requests that are traced,
    out of `requests`. Its own span is a trace of its own, which the members are linked to.
    """

    instance: str
    rows: int
    requests: int
    start_ns: int
    input_end_ns: int
    output_start_ns: int
    end_ns: int
    context: SpanContext | None = None
    members: tuple[SpanContext, ...] = ()


class Origin(NamedTuple):
    """Where traces come from and go to: `tell` takes one that is over, `number` gives ids."""

    tell: Callable[["Trace"], object]
    number: Callable[[], int]
    level: Level = Level.TIMESTAMPS
    spans: bool = False
    """Whether traces have a place among those of other processes."""
    group: object = None
    """Traces of one group are counted together."""
    log_frequency: int = 0


@dataclass(slots=True, eq=False)
class Trace:
    """What is noted of one request; written by whoever has the request, one after the other.

    `parent_id` is the trace of the request that made this one, 0 for a caller's; `wall_ns` is the
    time since the epoch at `start_ns`. Times that are not known are not in `marks`.
    """

    origin: Origin
    id: int
    model_name: str
    start_ns: int
    wall_ns: int
    model_version: str = ""
    request_id: str = ""
    parent_id: int = 0
    context: SpanContext | None = None
    parent: SpanContext | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    marks: list[tuple[str, int]] = field(default_factory=list)
    bag: TensorBag = field(default_factory=TensorBag)
    execution: Execution | None = None
    responses: int = 0
    cache_hit: bool = False
    end_ns: int = 0
    status: Status | None = None
    message: str = ""
    _over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def carrier(self) -> str | None:
        """What Triton's `request.trace().get_context()` gives a model: a JSON object with
        `traceparent`; None where traces do not leave the process.
        """
        return self.context.carrier if self.context is not None else None

    @property
    def trace_id(self) -> str:
        """The id that all spans of the trace share, "" if it has none."""
        return self.context.trace_id if self.context is not None else ""

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return _OVERHEAD_BYTES + len(self.marks) * _RESPONSE_BYTES + self.bag.size

    def child(self, model_name: str, now_ns: int, request_id: str = "") -> "Trace":
        """The trace of a request that this one makes of another model: a step of an ensemble, a
        call of a model's code. Put it into that request's `trace`; it ends by itself.
        """
        context = self.context.child() if self.context is not None else None
        return Trace(
            self.origin,
            self.origin.number(),
            model_name,
            now_ns,
            self.wall_ns + now_ns - self.start_ns,
            request_id=request_id,
            parent_id=self.id,
            context=context,
            parent=self.context,
        )

    def mark(self, name: str, now_ns: int) -> None:
        """A step was reached."""
        self.marks.append((name, now_ns))

    def tensors(self, activity: str, tensors: Iterable[Tensor]) -> None:
        """Copy these, if that is wanted."""
        if Level.TENSORS in self.origin.level:
            self.bag.add(activity, tensors)

    def executed(self, execution: Execution) -> None:
        """The request was a member of this."""
        self.execution = execution

    def responded(self, now_ns: int) -> None:
        """One response was given."""
        self.responses += 1
        if self.responses <= MOST_RESPONSES:
            self.mark(RESPONSE, now_ns)

    def finish(self, now_ns: int, status: Status | None = None, message: str = "") -> None:
        """The request is over, with this status if it failed; only the first end counts."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self.end_ns, self.status, self.message = now_ns, status, message
        self.origin.tell(self)

    def timestamps(self) -> list[tuple[str, int]]:
        """Every step with its time, in the order of time."""
        found = [(REQUEST_START, self.start_ns), *self.marks]
        done = self.execution
        if done is not None:
            found.append((COMPUTE_START, done.start_ns))
            found.append((COMPUTE_INPUT_END, done.input_end_ns))
            found.append((COMPUTE_OUTPUT_START, done.output_start_ns))
            found.append((COMPUTE_END, done.end_ns))
        found.append((REQUEST_END, self.end_ns))
        return sorted(found, key=_time_of)

    def wall(self, at_ns: int) -> int:
        """A monotonic time as nanoseconds since the epoch."""
        return self.wall_ns + at_ns - self.start_ns


def _time_of(mark: tuple[str, int]) -> int:
    return mark[1]


def batch_context(members: Sequence[SpanContext]) -> SpanContext | None:
    """The span of a batch with these members; None if none of them has one."""
    return new_root() if members else None
