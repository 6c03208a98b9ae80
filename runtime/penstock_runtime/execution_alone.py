"""Executing requests one after the other, each alone: for executions that take less than what goes
on around each of them, so that little may.

Every request gets exactly one last answer and moves exactly one counter, as in a batch.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock_runtime.backends.base import Arrays, Executable, Straight
from penstock_runtime.batch import Batch
from penstock_runtime.context import PendingContext
from penstock_runtime.errors import FailureReason, PenstockError
from penstock_runtime.execution import Desk, Spoilt, answers_of, as_penstock_error
from penstock_runtime.observability.statistics import AloneTiming
from penstock_runtime.request import Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.traced_stream import note_execution

_clock = time.monotonic_ns


# Long for its speed: every request of a model that does not batch passes here.
def execute_alone(desk: Desk, executable: Executable, members: Sequence[Pending]) -> None:
    """Execute requests one after the other, and account for all of them together.

    A request costs two clock calls and one answer here, and the rest is shared.
    """
    spent: list[AloneTiming] = []
    answered = 0
    only, fits, call = desk.plan.only, desk.plan.fits, straight_of(desk, executable)
    start = began = _clock()
    for pending in members:
        arrived, rows, deadline = pending.arrived_ns, pending.batch_size, pending.deadline_ns
        stream = pending.stream
        if stream.cancelled or (deadline is not None and deadline <= start):
            desk.living(Batch.of((pending,)), start)
            continue
        try:
            if call is None or stream.wants_timing or not pending.all_outputs:
                computed = _answer_alone(desk, executable, pending, start)
            else:
                returned = call(**pending.arrays)
                computed = _clock()
                if type(returned) is np.ndarray and returned.shape and fits(returned, rows):
                    stream.put_only(only, pending.id, returned, None)  # type: ignore[arg-type]
                else:
                    _answer_any(desk, executable, pending, returned)
        except (Exception, SystemExit) as error:
            desk.fail(pending, _failure(desk, executable, error), start)
            start = _clock()
            continue
        answered += 1
        end = _clock()
        # Asked again of the request: it may have been cancelled in the meantime.
        if pending.stream.cancelled:
            desk.statistics.record_failure(FailureReason.CANCELED, end - arrived)
        else:
            spent.append((rows, end - arrived, start - arrived, computed - start, end - computed))
        start = end
    desk.scheduler.predictor.observe((start - began) // len(members))
    desk.statistics.record_alone(spent)
    desk.scheduler.answered(answered)


def straight_of(desk: Desk, executable: Executable) -> Callable[..., Any] | None:
    """The model's own function, if what it returns can be an answer as it is."""
    if desk.plan.only is None or desk.scheduler.keeps_order:
        return None
    return executable.straight if isinstance(executable, Straight) else None


def _failure(desk: Desk, executable: Executable, error: BaseException) -> PenstockError:
    if isinstance(executable, Straight):
        return executable.failure(error)
    if not isinstance(error, Exception):
        # Other backends answer for what ends a program; nobody has to here.
        raise error
    return as_penstock_error(desk.name, error)


def _answer_any(desk: Desk, executable: Executable, pending: Pending, returned: Any) -> None:
    """Answer with what the model's own function returned that is no answer as it is."""
    assert isinstance(executable, Straight)
    context = PendingContext(pending, pending.stream)
    _answer(desk, pending, context, executable.outputs(returned, pending.arrays, (context,)), None)


def _answer_alone(desk: Desk, executable: Executable, pending: Pending, start: int) -> int:
    """Execute one request the usual way and answer it; when it had been computed."""
    context = PendingContext(pending, pending.stream)
    outputs = executable.execute(pending.arrays, (context,))
    computed = _clock()
    timing = None
    if pending.stream.wants_timing:
        queue_ns, rows = start - pending.arrived_ns, pending.batch_size
        timing = Timing(queue_ns, 0, computed - start, 0, rows, desk.name)
    _answer(desk, pending, context, outputs, timing)
    return computed


def _answer(
    desk: Desk,
    pending: Pending,
    context: PendingContext,
    outputs: Arrays,
    timing: Timing | None,
) -> None:
    batch = Batch.of((pending,))
    (answer,) = answers_of(desk.plan, batch, outputs, (context,), (timing,))
    if type(answer) is Spoilt:
        raise answer.error
    if timing is not None:
        note_execution(batch.members, (timing,), batch.rows)
    desk.scheduler.answer(pending, answer)
