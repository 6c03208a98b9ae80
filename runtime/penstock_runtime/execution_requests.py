"""Executing a batch whose model is handed the requests themselves and answers each of them, when
and from whatever thread it likes.

Whatever the model does, each request gets exactly one last answer and moves exactly one counter:
also one that its model keeps and forgets, once its caller gives up, its deadline passes or the
model goes.
"""

import threading
import time
from collections.abc import Sequence

from penstock_runtime.backends.base import RequestExecutable
from penstock_runtime.batch import Batch
from penstock_runtime.execution import Desk, as_penstock_error
from penstock_runtime.held_task import HeldTask, Run
from penstock_runtime.scheduling.alarm import Alarm, CallAt
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.endings import retired


class HeldTasks:
    """The requests of one instance that its model has kept; there are no more than are admitted.

    `call_at` calls back at a time; one appointment is enough for all.
    """

    def __init__(self, call_at: CallAt) -> None:
        self._lock = threading.Lock()
        self._tasks: set[HeldTask] = set()
        self._alarm = Alarm(call_at)
        self._ended = False
        self._empty = threading.Event()
        self._empty.set()

    def add(self, task: HeldTask) -> None:
        """The model kept this one; it is let go when it ends, at its deadline at the latest."""
        with self._lock:
            ended = self._ended
            if not ended:
                self._tasks.add(task)
                self._empty.clear()
            alarm = self._alarm.need(task.deadline_ns) if not ended else None
        if ended:
            task.fail(retired())
            return
        self._alarm.set(alarm, self._ring)
        if not task.at_end(self._discard):
            self._discard(task)

    def _discard(self, task: HeldTask) -> None:
        with self._lock:
            self._tasks.discard(task)
            if not self._tasks:
                self._empty.set()

    def _ring(self) -> None:
        """Answer those whose deadline has passed; in the timer's thread."""
        now = time.monotonic_ns()
        with self._lock:
            self._alarm.rung()
            known = [(t, t.deadline_ns) for t in self._tasks if t.deadline_ns is not None]
            late = [task for task, deadline in known if deadline <= now]
            rest = [deadline for _, deadline in known if deadline > now]
            alarm = self._alarm.need(min(rest, default=None))
        for task in late:
            task.expire(now)
        self._alarm.set(alarm, self._ring)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all are answered; False if time ran out."""
        return self._empty.wait(timeout_s)

    def end(self) -> None:
        """The model is gone: what it has not answered is answered UNAVAILABLE."""
        with self._lock:
            self._ended = True
            tasks = list(self._tasks)
        for task in tasks:
            task.fail(retired())

    def __len__(self) -> int:
        return len(self._tasks)


def execute_requests(
    desk: Desk, executable: RequestExecutable, batch: Batch, held: HeldTasks
) -> None:
    """Hand the requests of a batch to the model, and account for those that it answered."""
    start = time.monotonic_ns()
    living = desk.living(batch, start)
    if living is None:
        return
    run = Run(desk, start)
    tasks = [make_task(run, pending) for pending in living.members]
    hand_over(run, executable, tasks, living.rows)
    keep(held, tasks)


def hand_over(
    run: Run, executable: RequestExecutable, tasks: Sequence[HeldTask], rows: int
) -> bool:
    """Have the model execute these; False if it raised. What it answered by then is counted."""
    failed = False
    try:
        executable.execute_requests(tasks)
    except (Exception, SystemExit) as error:
        failed = True
        _fail_all(run.desk, tasks, error)
    _account(run, rows, failed=failed)
    return not failed


def keep(held: HeldTasks, tasks: Sequence[HeldTask]) -> None:
    """Keep those that the model has not answered yet."""
    for task in tasks:
        if not task.ended:
            held.add(task)


def make_task(run: Run, pending: Pending) -> HeldTask:
    """The request in the hands of the model."""
    task = HeldTask(run, pending)
    pending.held = task.abandon
    # Looked at after it is known whom to tell: a caller that gave up before told nobody.
    if pending.stream.cancelled:
        task.abandon()
    return task


def _fail_all(desk: Desk, tasks: Sequence[HeldTask], error: BaseException) -> None:
    known = error if isinstance(error, Exception) else RuntimeError("the model called sys.exit()")
    told = as_penstock_error(desk.name, known)
    for task in tasks:
        task.fail(told)


def _account(run: Run, rows: int, *, failed: bool) -> None:
    """Count the execution, and with it those that were answered by now."""
    end, desk = time.monotonic_ns(), run.desk
    desk.scheduler.predictor.observe(end - run.start_ns)
    timings = run.close()
    # A model that only raised has executed nothing.
    if timings or not failed:
        desk.statistics.record_batch(rows, timings, 0, end - run.start_ns, 0)
    if timings:
        desk.scheduler.answered(len(timings))
