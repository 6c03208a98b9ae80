"""Executing the requests of a decoupled model: every response goes out as it comes.

Whatever the model does, each request gets exactly one last answer and moves exactly one counter.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from penstock_runtime.backends.base import SLOW_READER_S, StreamingExecutable
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import (
    FailureReason,
    Internal,
    ResourceExhausted,
)
from penstock_runtime.execution import Desk, as_penstock_error, deadline_reached, late
from penstock_runtime.observability.response_table import outcome_of
from penstock_runtime.observability.response_tally import ResponseTally
from penstock_runtime.observability.statistics import RequestTiming
from penstock_runtime.request import Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.stream import ResponseStream
from penstock_runtime.stream_lane import Lane, LaneStream
from penstock_runtime.traced_stream import note_execution

# How often a request that has many responses looks up from them, the first time sooner because the
# first response is what is waited for; and how long it lets the event loop go first. Handing over
# costs as much as a hundred small responses.
LOOK_NS, FIRST_LOOK_NS = 1_000_000, 250_000
WAY_S = 0.001
_NEVER = 1 << 63


def execute_stream(desk: Desk, executable: StreamingExecutable, batch: Batch) -> None:
    """Execute the requests of a decoupled model one by one, passing responses on as they come."""
    # Those that nobody waits for any more are answered at once, however many are before them.
    living = desk.living(batch, time.monotonic_ns()) if len(batch.members) > 1 else batch
    for pending in living.members if living is not None else ():
        start = time.monotonic_ns()
        try:
            _stream_one(desk, executable, pending, start)
        except Exception as error:
            desk.fail(pending, as_penstock_error(desk.name, error), start)


def _stream_one(desk: Desk, executable: StreamingExecutable, pending: Pending, start: int) -> None:
    alone = Batch((pending,), pending.batch_size)
    if (pending.stream.cancelled or late(pending, start)) and desk.living(alone, start) is None:
        return
    context = RequestContext(pending.request, pending.stream)
    inputs = desk.plan.merge(alone)
    merged = time.monotonic_ns()
    stream = executable.stream
    if desk.plan.only is not None:
        # With one output, its arrays need not be named.
        stream = getattr(executable, "arrays", stream)
    responses = stream(inputs, context)
    try:
        output_ns = forward_responses(desk, pending, context, responses, merged)
    finally:
        close = getattr(responses, "close", None)
        if close is not None:
            close()
    end_stream(desk, pending, start, merged, output_ns)


def forward_responses(
    desk: Desk,
    pending: Pending,
    context: RequestContext,
    responses: Any,
    merged: int,
    goes_on: Callable[[], bool] = bool,
) -> int:
    """Pass every response on; gives the nanoseconds spent on that rather than in the model.

    `goes_on` says afterwards whether the request is executed again rather than over.
    """
    # One loop for all of it: what is done here for each response is most of what it costs.
    stream, clock = pending.stream, time.monotonic_ns
    deadline = _NEVER if pending.deadline_ns is None else pending.deadline_ns
    tally = ResponseTally(desk.statistics, pending.arrived_ns, merged)
    ready_at = tally.ready_ns
    lane: Lane | None = None
    look_at = 0
    try:
        for outputs in responses:
            ready = clock()
            if stream.cancelled:
                raise cancelled_error()
            if ready >= deadline:
                raise deadline_reached(pending, ready)
            if lane is None or context.spoken or not lane(outputs):
                if not stream.wait_for_room(0.0):
                    _wait_for_room(stream)
                    look_at = 0
                lane = _send(desk, pending, context, outputs)
            ready_at.append(ready)
            if ready >= look_at:
                look_at = _look(stream, tally)
        if stream.cancelled:
            raise cancelled_error()
    except BaseException as error:
        tally.end(clock(), outcome_of(error))
        raise
    tally.end(clock(), None if goes_on() else "empty")
    return tally.output_ns


def _send(desk: Desk, pending: Pending, context: RequestContext, outputs: Any) -> Lane | None:
    """Send one response, the careful way if need be; a shorter one for those that are like it."""
    stream, parameters = pending.stream, context.said
    if desk.plan.only is not None and type(outputs) is np.ndarray:
        outputs = {desk.plan.only.output: outputs}
    if parameters:
        context.response_parameters = {}
    elif isinstance(stream, LaneStream):
        lane = _open_lane(desk.plan, pending, stream, outputs)
        if lane is not None and lane(outputs):
            return lane
    response = desk.plan.single(pending, outputs, parameters)
    if not stream.put(response) and not stream.cancelled:
        # The stream has ended with an error of its own: nothing that follows would be told.
        raise Internal(
            "a response could not be encoded",
            reason="MODEL_FAILED",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )
    return stream.lane(response) if isinstance(stream, LaneStream) else None


def _open_lane(
    plan: BatchPlan, pending: Pending, stream: LaneStream, outputs: Mapping[str, Any]
) -> Lane | None:
    """The lane of a model with one output, for a request that asks for nothing in particular."""
    if plan.only is None or not pending.all_outputs:
        return None
    array = outputs.get(plan.only.output)
    if type(array) is not np.ndarray or not array.shape or not plan.fits(array, array.shape[0]):
        return None
    return stream.open_lane(plan.only, array.shape)


def _wait_for_room(stream: ResponseStream) -> None:
    if not stream.wait_for_room(SLOW_READER_S):
        raise ResourceExhausted(
            f"the reader of the stream took nothing for {SLOW_READER_S:.0f} s",
            reason="SLOW_READER",
            scheduled=True,
        )


def _look(stream: ResponseStream, tally: ResponseTally) -> int:
    """See to all but the responses themselves; when to do so again.

    A model that never lets go of the interpreter keeps the event loop from sending what it makes,
    so the loop is let to it if it has had no turn for so long. A slow model waits for nobody.
    """
    sent = time.monotonic_ns()
    if tally.told and isinstance(stream, LaneStream):
        stream.give_way(WAY_S)
    now = time.monotonic_ns()
    tally.tell(sent, now)
    return now + (LOOK_NS if tally.told > 1 else FIRST_LOOK_NS)


def end_stream(desk: Desk, pending: Pending, start: int, merged: int, output_ns: int) -> None:
    """Count the request, and give it its last response, which carries no outputs."""
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
    answer = pending.stream.ready(desk.plan.last(pending, timing))
    request = RequestTiming(
        end - pending.arrived_ns, start - pending.arrived_ns, pending.batch_size
    )
    desk.scheduler.predictor.observe(end - start)
    desk.statistics.record_batch(pending.batch_size, [request], merged - start, infer_ns, output_ns)
    note_execution((pending,), (timing,), pending.batch_size)
    desk.scheduler.answer(pending, answer)
    desk.scheduler.answered(1)
