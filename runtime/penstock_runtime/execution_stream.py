"""Executing the requests of a decoupled model: every response goes out as it comes.

Whatever the model does, each request gets exactly one last answer and moves exactly one counter.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from penstock_runtime.backends.base import StreamingExecutable
from penstock_runtime.batch import Batch
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import ResourceExhausted
from penstock_runtime.execution import Desk, as_penstock_error, late
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.scheduling.queue import expired_deadline

# A reader that takes nothing for so long does not get to hold an instance any longer.
SLOW_READER_S = 10.0


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
            if late(pending, ready):
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
    desk.scheduler.answer(pending, partial(pending.stream.put, last))
    desk.scheduler.answered(1)
