"""A request in the hands of a model that answers by itself: exactly one last answer, exactly one
counter, from whatever thread.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from penstock_runtime.backends.base import SLOW_READER_S, Arrays, RequestTask
from penstock_runtime.errors import (
    DeadlineExceeded,
    FailureReason,
    Internal,
    PenstockError,
    ResourceExhausted,
)
from penstock_runtime.execution import Desk, deadline_reached
from penstock_runtime.observability.response_table import Outcome, outcome_of
from penstock_runtime.observability.statistics import RequestTiming
from penstock_runtime.request import EMPTY, InferResponse, Parameters, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.endings import given_up
from penstock_runtime.traced_stream import note_execution
from penstock_runtime.watchers import Watchers


class Run:
    """One call of a model's code; it is counted together with what was answered until it returned.

    `decoupled` requests may get any number of responses.
    """

    def __init__(self, desk: Desk, start_ns: int) -> None:
        self.desk = desk
        self.start_ns = start_ns
        self.decoupled = desk.plan.decoupled
        self._lock = threading.Lock()
        self._timings: list[RequestTiming] | None = []

    def add(self, timing: RequestTiming) -> bool:
        """Count a success with the execution; False if that has been counted already."""
        with self._lock:
            if self._timings is None:
                return False
            self._timings.append(timing)
            return True

    def close(self) -> list[RequestTiming]:
        """The successes so far; those that come later count by themselves."""
        with self._lock:
            timings, self._timings = self._timings or [], None
        return timings


class HeldTask(RequestTask):
    """One request, from the moment it is handed to its model to its last answer.

    `pending` is None once it has ended, and with it all that the request holds.
    """

    __slots__ = (
        "_at_end",
        "_gone",
        "_index",
        "_lock",
        "_run",
        "_since_ns",
        "_watchers",
        "arrays",
        "deadline_ns",
        "iterative",
        "pending",
        "request",
        "rescheduled",
    )

    def __init__(self, run: Run, pending: Pending) -> None:
        self.pending: Pending | None = pending
        self.request = pending.request
        if pending.trace is not self.request.trace:
            self.request = self.request._replace(trace=pending.trace)
        self.arrays = pending.arrays
        self.deadline_ns = pending.deadline_ns
        self._run = run
        self._lock = threading.Lock()
        self.iterative = self.rescheduled = False
        self._index = 0
        self._gone = False
        self._since_ns = run.start_ns
        self._at_end: Callable[[HeldTask], None] | None = None
        self._watchers = Watchers(self._lock)

    # -- what the model is told ------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether it has its last answer."""
        return self.pending is None

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._gone

    @property
    def has_room(self) -> bool:
        """Whether `send` would not have to wait for a reader."""
        pending = self.pending
        return pending is None or not self._run.decoupled or pending.stream.wait_for_room(0.0)

    def on_abandon(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from any thread, if nobody waits any more; what is returned ends that."""
        return self._watchers.add(callback)

    def reschedule(self, again: bool = True) -> None:
        """Ask for a further step of the request after this one, or no more."""
        if again and not self.iterative:
            super().reschedule()
        self.rescheduled = again

    def detach(self) -> bool:
        """The request goes on without this: nothing that is said here counts any more. False if it
        has ended.
        """
        taken = self._take() is not None
        self._watchers.close(gone=False)
        return taken

    # -- what the model says ---------------------------------------------------------------------

    def send(
        self,
        outputs: Arrays,
        parameters: Parameters = EMPTY,
        *,
        last: bool = True,
        patience_s: float = SLOW_READER_S,
    ) -> None:
        """Answer with these outputs; a response that is not what was declared fails the request."""
        pending = self.pending
        if pending is None:
            return
        if not self._run.decoupled:
            self._answer(pending, outputs, parameters)
            return
        started = time.monotonic_ns()
        if not pending.stream.wait_for_room(patience_s):
            self.fail(_slow_reader(patience_s))
            return
        try:
            response = self._run.desk.plan.single(pending, outputs, parameters)
        except PenstockError as error:
            self.fail(error)
            return
        if last:
            self._finish(response._replace(final=True), started)
        elif pending.stream.put(response):
            self._count(pending, started)
        elif not pending.stream.cancelled:
            self.fail(_not_encoded())

    def finish(self) -> None:
        """End a decoupled request without a further response."""
        self._finish(None, time.monotonic_ns())

    def fail(self, error: PenstockError) -> None:
        """End with an error."""
        pending = self._take()
        if pending is None:
            return
        self._gone = True
        self._count(pending, time.monotonic_ns(), outcome_of(error))
        # Counted, answered and let go of as any request that fails.
        self._run.desk.fail(pending, error, self._run.start_ns)
        self._tell(gone=True)

    def abandon(self) -> None:
        """The caller gave up."""
        pending = self.pending
        if pending is None:
            return
        now = time.monotonic_ns()
        error = given_up(pending, now)
        late = isinstance(error, DeadlineExceeded)
        self.fail(deadline_reached(pending, now) if late else error)

    def expire(self, now: int) -> None:
        """Its deadline has passed."""
        pending = self.pending
        if pending is not None:
            self.fail(deadline_reached(pending, now))

    def at_end(self, callback: "Callable[[HeldTask], None]") -> bool:
        """Call back at the end; False if that is past."""
        with self._lock:
            self._at_end = callback
            return self.pending is not None

    # -- how it ends -----------------------------------------------------------------------------

    def _take(self) -> Pending | None:
        """The request, for the one who ends it; None for whoever comes later."""
        with self._lock:
            pending, self.pending = self.pending, None
        if pending is not None:
            pending.held = None
            self.arrays = {}
            if self._at_end is not None:
                # A model may keep what it answered by for as long as it likes.
                self.request = self.request._replace(inputs=())
        return pending

    def _answer(self, pending: Pending, outputs: Arrays, parameters: Parameters) -> None:
        """The one answer there is."""
        desk, now = self._run.desk, time.monotonic_ns()
        timing = self._timing(pending, now) if pending.stream.wants_timing else None
        try:
            answer = _answer_of(desk, pending, outputs, parameters, timing)
        except PenstockError as error:
            self.fail(error)
            return
        if self._take() is not None:
            note_execution((pending,), (timing,), pending.batch_size)
            desk.scheduler.answer(pending, answer)
            self._succeeded(pending)

    def _finish(self, response: InferResponse | None, started: int) -> None:
        pending = self.pending
        if pending is None:
            return
        desk, timing = self._run.desk, self._timing(pending, started)
        last = (response or desk.plan.last(pending, None))._replace(timing=timing)
        try:
            answer = pending.stream.ready(last)
        except PenstockError as error:
            self.fail(error)
            return
        if self._take() is None:
            return
        note_execution((pending,), (timing,), pending.batch_size)
        desk.scheduler.answer(pending, answer)
        self._count(pending, started, "empty" if response is None else "success")
        self._succeeded(pending)

    def _succeeded(self, pending: Pending) -> None:
        now, run = time.monotonic_ns(), self._run
        timing = RequestTiming(
            now - pending.arrived_ns, run.start_ns - pending.arrived_ns, pending.batch_size
        )
        if not run.add(timing):
            run.desk.statistics.record_late(timing, 0, now - run.start_ns)
            run.desk.scheduler.answered(1)
        self._tell(gone=False)

    def _tell(self, *, gone: bool) -> None:
        """Let those know who waited for the end."""
        with self._lock:
            at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end(self)
        self._watchers.close(gone=gone)

    def _count(self, pending: Pending, started: int, outcome: Outcome = "success") -> None:
        """Count one response of a decoupled request, or what it had in place of the last."""
        if not self._run.decoupled:
            return
        now = time.monotonic_ns()
        with self._lock:
            index, self._index = self._index, self._index + 1
            since, self._since_ns = self._since_ns, now
        first = started - pending.arrived_ns if index == 0 and outcome == "success" else None
        infer, output = max(started - since, 0), now - started
        self._run.desk.statistics.record_response(index, infer, output, outcome, first)

    def _timing(self, pending: Pending, now: int) -> Timing:
        start = self._run.start_ns
        queue_ns, rows = start - pending.arrived_ns, pending.batch_size
        return Timing(queue_ns, 0, now - start, 0, rows, self._run.desk.name)

    def __repr__(self) -> str:
        return f"<HeldTask {self.request.id!r}, {'ended' if self.ended else 'open'}>"


def _answer_of(
    desk: Desk, pending: Pending, outputs: Arrays, parameters: Parameters, timing: Timing | None
) -> Callable[[], Any]:
    """What answers a request with these outputs; the shortest way for the ordinary case."""
    only = desk.plan.only
    if only is not None and pending.all_outputs and not parameters:
        array = outputs.get(only.output)
        if array is not None and desk.plan.fits(array, pending.batch_size):
            return partial(pending.stream.put_only, only, pending.id, array, timing)
    response = desk.plan.whole(pending, outputs, parameters, timing)
    return pending.stream.ready(response)


def _slow_reader(patience_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"the reader of the stream took nothing for {patience_s:.0f} s",
        reason="SLOW_READER",
        scheduled=True,
    )


def _not_encoded() -> Internal:
    """The stream has ended with an error of its own: nothing that follows would be told."""
    return Internal(
        "a response could not be encoded",
        reason="MODEL_FAILED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )
