"""Executing one batch: merge, compute, split, answer, and account for where the time went.

Whatever a model does, every member of the batch gets exactly one last answer and moves exactly one
counter.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock_runtime.backends.base import Executable, StreamingExecutable
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import FailureReason, Internal, PenstockError, ResourceExhausted
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import InferResponse, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.scheduling.queue import expired_deadline

_log = logging.getLogger("penstock.model")

# A reader that takes nothing for so long does not get to hold an instance any longer.
SLOW_READER_S = 10.0


@dataclass(frozen=True, slots=True)
class Desk:
    """What every execution of one instance works with."""

    name: str
    plan: BatchPlan
    scheduler: BatchScheduler
    statistics: ModelStatistics

    def fail(self, pending: Pending, error: PenstockError) -> None:
        """The last answer of a request that did not succeed."""
        duration = time.monotonic_ns() - pending.arrived_ns
        self.statistics.record_failure(error.failure, duration)
        self.scheduler.answer(pending, partial(_fail, pending, error))
        self.scheduler.answered(1)

    def living(self, batch: Batch, now: int) -> Batch | None:
        """The batch without those that nobody waits for any more; these are answered here."""
        dead = [p for p in batch.members if p.stream.cancelled or _late(p, now)]
        if not dead:
            return batch
        for pending in dead:
            late = _late(pending, now)
            self.fail(pending, expired_deadline(pending, now) if late else cancelled_error())
        rest = [pending for pending in batch.members if pending not in dead]
        return Batch.of(rest) if rest else None


def execute_batch(desk: Desk, executable: Executable, batch: Batch) -> None:
    """Execute a batch and answer each of its requests."""
    start = time.monotonic_ns()
    living = desk.living(batch, start)
    if living is None:
        return
    try:
        answers = _compute(desk, executable, living, start)
    except Exception as error:
        _after_failure(desk, executable, living, error)
        return
    for pending, response in zip(living.members, answers, strict=True):
        desk.scheduler.answer(pending, partial(_put, pending, response))
    desk.scheduler.answered(len(living.members))


def _compute(
    desk: Desk, executable: Executable, batch: Batch, start: int
) -> Sequence[InferResponse]:
    contexts = [RequestContext(pending.request, pending.stream) for pending in batch.members]
    inputs = desk.plan.merge(batch)
    merged = time.monotonic_ns()
    outputs = executable.execute(inputs, contexts)
    computed = time.monotonic_ns()
    parameters = [context.response_parameters for context in contexts]
    timings = [
        Timing(
            start - pending.arrived_ns,
            merged - start,
            computed - merged,
            0,
            batch.rows,
            desk.name,
        )
        for pending in batch.members
    ]
    responses = desk.plan.split(batch, outputs, parameters, timings)
    _account(desk, batch, start, merged, computed)
    return responses


def _account(desk: Desk, batch: Batch, start: int, merged: int, computed: int) -> None:
    end = time.monotonic_ns()
    desk.scheduler.predictor.observe(end - start)
    # Whoever gave up in the meantime was executed, but is no success.
    gone = [pending for pending in batch.members if pending.stream.cancelled]
    for pending in gone:
        desk.statistics.record_failure(FailureReason.CANCELED, end - pending.arrived_ns)
    requests = [
        RequestTiming(end - p.arrived_ns, start - p.arrived_ns, p.batch_size)
        for p in batch.members
        if p not in gone
    ]
    desk.statistics.record_batch(
        batch.rows, requests, merged - start, computed - merged, end - computed
    )


def _after_failure(desk: Desk, executable: Executable, batch: Batch, error: Exception) -> None:
    """A batch failed: its only request gets the error; of several, each is tried alone.

    So one poisoned member does not take its neighbours down with it.
    """
    if len(batch.members) == 1:
        desk.fail(batch.members[0], as_penstock_error(desk.name, error))
        return
    _log.warning(
        "a batch of %d requests failed on %s; each is tried alone", len(batch.members), desk.name
    )
    for pending in batch.members:
        execute_batch(desk, executable, Batch.of([pending]))


def execute_stream(desk: Desk, executable: StreamingExecutable, batch: Batch) -> None:
    """Execute the requests of a decoupled model one by one, passing responses on as they come."""
    living = desk.living(batch, time.monotonic_ns())
    for pending in living.members if living is not None else ():
        try:
            _stream_one(desk, executable, pending)
        except Exception as error:
            desk.fail(pending, as_penstock_error(desk.name, error))


def _stream_one(desk: Desk, executable: StreamingExecutable, pending: Pending) -> None:
    start = time.monotonic_ns()
    if desk.living(Batch.of([pending]), start) is None:
        return
    context = RequestContext(pending.request, pending.stream)
    inputs = desk.plan.merge(Batch.of([pending]))
    merged = time.monotonic_ns()
    responses = executable.stream(inputs, context)
    try:
        output_ns = _forward(desk, pending, context, responses, merged)
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()
    _end_stream(desk, pending, start, merged, output_ns)


def _forward(
    desk: Desk, pending: Pending, context: RequestContext, responses: Any, merged: int
) -> int:
    """Pass every response on; gives the nanoseconds spent on that rather than in the model."""
    tally = _Tally(desk.statistics)
    output_ns, since = 0, merged
    try:
        for outputs in responses:
            ready = time.monotonic_ns()
            if pending.stream.cancelled:
                raise cancelled_error()
            if _late(pending, ready):
                raise expired_deadline(pending, ready)
            _send(desk, pending, context, outputs)
            now = time.monotonic_ns()
            tally.add(ready - since, now - ready, ready - pending.arrived_ns)
            output_ns += now - ready
            since = now
    finally:
        tally.flush()
    if pending.stream.cancelled:
        raise cancelled_error()
    return output_ns


class _Tally:
    """The responses of one request, told to the statistics in handfuls: a lock for each is dear."""

    __slots__ = ("_counted", "_spent", "_statistics")

    def __init__(self, statistics: ModelStatistics) -> None:
        self._statistics = statistics
        self._counted = 0
        self._spent: list[tuple[int, int]] = []

    def add(self, infer_ns: int, output_ns: int, since_arrival_ns: int) -> None:
        """Count one response; the first of all is told at once."""
        if not self._counted:
            # What a user feels most is the first response: let go of the interpreter, so that the
            # event loop can send it before a fast generator has made many more.
            time.sleep(0)
            self._statistics.record_response(0, infer_ns, output_ns, "success", since_arrival_ns)
            self._counted = 1
            return
        self._spent.append((infer_ns, output_ns))
        if len(self._spent) == 32:
            self.flush()

    def flush(self) -> None:
        """Tell what has been counted."""
        if self._spent:
            self._statistics.record_responses(self._counted, self._spent)
            self._counted += len(self._spent)
            self._spent = []


def _send(
    desk: Desk, pending: Pending, context: RequestContext, outputs: Mapping[str, Any]
) -> None:
    if not pending.stream.wait_for_room(SLOW_READER_S):
        raise ResourceExhausted(
            f"the reader of the stream took nothing for {SLOW_READER_S:.0f} s",
            reason="SLOW_READER",
            scheduled=True,
        )
    parameters = context.response_parameters
    if parameters:
        context.response_parameters = {}
    pending.stream.put(desk.plan.single(pending, outputs, parameters))


def _end_stream(desk: Desk, pending: Pending, start: int, merged: int, output_ns: int) -> None:
    end = time.monotonic_ns()
    infer_ns = end - merged - output_ns
    timing = Timing(
        start - pending.arrived_ns,
        merged - start,
        infer_ns,
        output_ns,
        pending.batch_size,
        desk.name,
    )
    request = RequestTiming(
        end - pending.arrived_ns, start - pending.arrived_ns, pending.batch_size
    )
    desk.scheduler.predictor.observe(end - start)
    desk.statistics.record_batch(pending.batch_size, [request], merged - start, infer_ns, output_ns)
    last = desk.plan.last(pending, timing)
    desk.scheduler.answer(pending, partial(_put, pending, last))
    desk.scheduler.answered(1)


def as_penstock_error(name: str, error: Exception) -> PenstockError:
    """An exception of a model as an answer; the traceback goes to the log and nowhere else."""
    if isinstance(error, PenstockError):
        return error
    _log.error("execution failed on %s", name, exc_info=error)
    return Internal(
        f"execution failed: {type(error).__name__}",
        reason="MODEL_FAILED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )


def _late(pending: Pending, now: int) -> bool:
    return pending.deadline_ns is not None and pending.deadline_ns <= now


def _put(pending: Pending, response: InferResponse) -> None:
    pending.stream.put(response)


def _fail(pending: Pending, error: PenstockError) -> None:
    pending.stream.fail(error)
