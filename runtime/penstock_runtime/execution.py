"""Executing one batch: merge, compute, split, answer, and account for where the time went.

Whatever a model does, every member of the batch gets exactly one last answer and moves exactly one
counter.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penstock_kernels.ragged import scatter_rows
from penstock_runtime.backends.base import Executable
from penstock_runtime.batch import NOTHING_GIVEN, Batch, BatchPlan
from penstock_runtime.batch_staging import StagedMerge
from penstock_runtime.context import PendingContext
from penstock_runtime.errors import (
    DeadlineExceeded,
    FailureReason,
    InstanceDied,
    Internal,
    PenstockError,
)
from penstock_runtime.exhausted import memory_exhausted, out_of_memory
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import InferResponse, Timing
from penstock_runtime.scheduling.answering import Answering
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.scheduling.queue import expired_deadline
from penstock_runtime.traced_stream import note_execution, note_failure

_log = logging.getLogger("penstock.model")


@dataclass(frozen=True, slots=True)
class Desk:
    """What every execution of one instance works with."""

    name: str
    plan: BatchPlan
    scheduler: Answering
    statistics: ModelStatistics
    # How inputs are put together on the instance's device; None: as the plan does, on the host.
    staged: StagedMerge | None = None

    def merge(self, batch: Batch) -> dict[str, Any]:
        """The inputs of a batch, where the instance takes them."""
        return self.plan.merge(batch) if self.staged is None else self.staged(batch.members)

    def cut(self, batch: Batch, outputs: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
        """Outputs that are cut on the device, so that no padding is copied to the host."""
        return NOTHING_GIVEN if self.staged is None else self.staged.cut(batch.members, outputs)

    def fail(self, pending: Pending, error: PenstockError, started_ns: int | None = None) -> None:
        """The last answer of a request that did not succeed; its execution had begun then."""
        note_failure(pending, started_ns)
        duration = time.monotonic_ns() - pending.arrived_ns
        self.statistics.record_failure(error.failure, duration)
        self.scheduler.answer(pending, partial(_fail, pending, error))
        self.scheduler.answered(1)

    def living(self, batch: Batch, now: int) -> Batch | None:
        """The batch without those that nobody waits for any more; these are answered here."""
        dead = [p for p in batch.members if p.stream.cancelled or late(p, now)]
        if not dead:
            return batch
        for pending in dead:
            is_late = late(pending, now)
            self.fail(pending, expired_deadline(pending, now) if is_late else cancelled_error())
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
        _after_failure(desk, executable, living, error, start)
        return
    if desk.scheduler.keeps_order:
        for pending, answer in zip(living.members, answers, strict=True):
            desk.scheduler.answer(pending, answer)
    else:
        for answer in answers:
            answer()
    desk.scheduler.answered(len(living.members))


def _compute(
    desk: Desk, executable: Executable, batch: Batch, start: int
) -> Sequence[Callable[[], object]]:
    """Execute; what answers each member, in row order."""
    members = batch.members
    contexts = [PendingContext(pending, pending.stream) for pending in members]
    inputs = desk.merge(batch)
    merged = time.monotonic_ns()
    outputs = executable.execute(inputs, contexts)
    computed = time.monotonic_ns()
    input_ns, infer_ns, name = merged - start, computed - merged, desk.name
    timings = [
        Timing(start - p.arrived_ns, input_ns, infer_ns, 0, batch.rows, name)
        if p.stream.wants_timing
        else None
        for p in members
    ]
    given = desk.cut(batch, outputs)
    answers = answers_of(desk.plan, batch, outputs, contexts, timings, given)
    _account(desk, batch, spoilt(answers), start, merged, computed)
    if any(timings):
        note_execution(members, timings, batch.rows)
    return answers


def answers_of(
    plan: BatchPlan,
    batch: Batch,
    outputs: Mapping[str, Any],
    contexts: Sequence[PendingContext],
    timings: Sequence[Timing | None],
    given: Mapping[str, Sequence[Any]] = NOTHING_GIVEN,
) -> Sequence[Callable[[], object]]:
    """What answers each member of a batch with its part of the outputs, in row order."""
    members, only = batch.members, plan.only
    if only is not None and all(p.all_outputs for p in members):
        array = outputs.get(only.output)
        if plan.fits(array, batch.rows) and not any(c.said for c in contexts):
            parts = (array,) if len(members) == 1 else scatter_rows(array, batch.sizes)
            return [
                partial(pending.stream.put_only, only, pending.id, part, timing)
                for pending, part, timing in zip(members, parts, timings, strict=True)
            ]
    parameters = [context.said for context in contexts]
    responses = plan.split(batch, outputs, parameters, timings, given)
    return list(map(ready_answer, members, responses))


class Spoilt:
    """Answers a request whose response cannot be given with the error that says why: it was
    executed, but is no success.
    """

    __slots__ = ("error", "pending")

    def __init__(self, pending: Pending, error: PenstockError) -> None:
        self.pending = pending
        self.error = error

    def __call__(self) -> object:
        """Give the answer."""
        return self.pending.stream.fail(self.error)


def ready_answer(pending: Pending, response: InferResponse) -> Callable[[], object]:
    """What answers a request with its response, or as `Spoilt`."""
    try:
        return pending.stream.ready(response)
    except PenstockError as error:
        return Spoilt(pending, error)


def spoilt(answers: Sequence[object]) -> Mapping[Pending, FailureReason]:
    """How those requests are counted whose answers are errors."""
    return {one.pending: one.error.failure for one in answers if type(one) is Spoilt}


def _account(
    desk: Desk,
    batch: Batch,
    lost: Mapping[Pending, FailureReason],
    start: int,
    merged: int,
    computed: int,
) -> None:
    end = time.monotonic_ns()
    desk.scheduler.predictor.observe(end - start, batch.rows)
    # Whoever gave up in the meantime was executed, but is no success.
    stayed = [p for p in batch.members if not p.stream.cancelled and p not in lost]
    if len(stayed) < len(batch.members):
        for pending in batch.members:
            if pending not in stayed:
                reason = lost.get(pending, FailureReason.CANCELED)
                desk.statistics.record_failure(reason, end - pending.arrived_ns)
    requests = [
        RequestTiming(end - p.arrived_ns, start - p.arrived_ns, p.batch_size) for p in stayed
    ]
    desk.statistics.record_batch(
        batch.rows, requests, merged - start, computed - merged, end - computed
    )


def _after_failure(
    desk: Desk, executable: Executable, batch: Batch, error: Exception, start: int
) -> None:
    """A batch failed: its only request gets the error; of several, each is tried alone.

    So one poisoned member does not take its neighbours down with it; unless it took the process of
    the model, which is not given it again.
    """
    if len(batch.members) == 1 or isinstance(error, InstanceDied):
        known = as_penstock_error(desk.name, error)
        for pending in batch.members:
            desk.fail(pending, known, start)
        return
    _log.warning(
        "a batch of %d requests failed on %s; each is tried alone", len(batch.members), desk.name
    )
    for pending in batch.members:
        execute_batch(desk, executable, Batch.of([pending]))


def as_penstock_error(name: str, error: Exception) -> PenstockError:
    """An exception of a model as an answer; the traceback goes to the log and nowhere else."""
    if isinstance(error, PenstockError):
        return error
    _log.error("execution failed on %s", name, exc_info=error)
    if out_of_memory(error):
        return memory_exhausted(f"the memory for a batch ran out on {name}")
    return Internal(
        f"execution failed: {type(error).__name__}",
        reason="MODEL_FAILED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )


def late(pending: Pending, now: int) -> bool:
    """Whether the caller's deadline has passed."""
    return pending.deadline_ns is not None and pending.deadline_ns <= now


def deadline_reached(pending: Pending, now: int) -> DeadlineExceeded:
    """The error of a request whose deadline passed while it was executed."""
    spent_ms = (now - pending.arrived_ns) / 1e6
    return DeadlineExceeded(
        f"deadline exceeded after {spent_ms:.1f} ms, while the request was executed",
        reason="DEADLINE_EXPIRED",
        scheduled=True,
    )


def _fail(pending: Pending, error: PenstockError) -> None:
    pending.stream.fail(error)
