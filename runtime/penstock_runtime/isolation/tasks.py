"""Requests that are in the hands of a model in another process, and its answers to them.

Answers are given by the thread that reads them, unless their reader is slow: then by a thread of
their own, so that no request waits for another's reader.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol

from penstock_runtime.backends.base import SLOW_READER_S, RequestTask
from penstock_runtime.errors import InstanceDied
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.traces import note_marks
from penstock_runtime.isolation.values import error_of, parameters_of
from penstock_runtime.isolation.window import TASK_WINDOW
from penstock_runtime.observability.tracing import Trace

_log = logging.getLogger("penstock.model")


class _Answer(Protocol):
    def __call__(self, *, patience_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class LostTask:
    """A request that a process had in hand when it ended, since `came_ns` (from 1970 on)."""

    id: str
    came_ns: int


class _Open:
    """One request; `late` are answers that wait for its reader, None if nobody gives them."""

    def __init__(self, task: RequestTask) -> None:
        self.task = task
        self.came_ns = time.time_ns()
        self.late: deque[_Answer] | None = None


class OpenTasks:
    """The requests that one process has in hand."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}
        self._numbers = count(1)
        self._died: InstanceDied | None = None

    def add(self, task: RequestTask) -> int:
        """The process is about to get this one; its number."""
        with self._lock:
            number = next(self._numbers)
            died = self._died
            if died is None:
                self._open[number] = _Open(task)
        if died is not None:
            task.fail(died)
        else:
            task.on_abandon(partial(self._abandoned, number))
        return number

    def _abandoned(self, number: int) -> None:
        """Nobody waits for its answer; from any thread."""
        if self.forget(number):
            self._life.post(lambda: self._life.send(Kind.CANCEL, number, {"task": True}))

    def forget(self, number: int) -> bool:
        """Nothing more is to come for this one; False if that was known."""
        with self._lock:
            return self._open.pop(number, None) is not None

    def trace_of(self, number: int) -> Trace | None:
        """The trace of one of them, if it is traced and open."""
        with self._lock:
            found = self._open.get(number)
        return found.task.request.trace if found is not None else None

    def handle(self, frame: Frame) -> bool:
        """What the process says to one of them; False if it says nothing of the kind."""
        if frame.kind is Kind.ANSWER:
            self._send(frame)
        elif frame.kind is Kind.FINISHED:
            note_marks(self.trace_of(frame.number), frame.note)
            self._do(frame.number, _ignoring(lambda task: task.finish()), last=True)
        elif frame.kind is Kind.REFUSED:
            error = error_of(frame.note.get("error"))
            self._do(frame.number, _ignoring(lambda task: task.fail(error)), last=True)
        else:
            return False
        return True

    def _send(self, frame: Frame) -> None:
        outputs, block = self._life.memory.arrays(frame)
        self._life.release(block, later=True)
        note_marks(self.trace_of(frame.number), frame.note)
        parameters = parameters_of(frame.note.get("parameters"))
        last = bool(frame.note.get("last", True))

        def send(task: RequestTask, patience_s: float) -> None:
            task.send(outputs, parameters, last=last, patience_s=patience_s)

        self._do(frame.number, send, last=last)

    def _do(self, number: int, what: Callable[[RequestTask, float], None], *, last: bool) -> None:
        with self._lock:
            found = self._open.get(number)
        if found is None:
            return
        work = partial(self._give, number, found.task, what, last)
        with self._lock:
            if found.late is not None:
                if len(found.late) > TASK_WINDOW:
                    raise BrokenProtocol(f"more than {TASK_WINDOW} responses were not waited for")
                found.late.append(work)
                return
        if found.task.has_room:
            work(patience_s=0.0)
            return
        found.late = deque((work,))
        thread = threading.Thread(
            target=self._give_late, args=(found,), name="penstock-slow-reader", daemon=True
        )
        thread.start()

    def _give_late(self, found: _Open) -> None:
        while True:
            with self._lock:
                assert found.late is not None
                if not found.late:
                    found.late = None
                    return
                work = found.late[0]
            work(patience_s=SLOW_READER_S)
            with self._lock:
                found.late.popleft()

    def _give(
        self,
        number: int,
        task: RequestTask,
        what: Callable[[RequestTask, float], None],
        last: bool,
        *,
        patience_s: float,
    ) -> None:
        # Before: a task that ends tells those who watch it, and this is no abandonment.
        if last:
            self.forget(number)
        try:
            what(task, patience_s)
        except Exception:
            _log.exception("an answer could not be given")
        if not last:
            self._life.post(lambda: self._life.send(Kind.CREDIT, number, {"task": True}))

    def close(self, error: InstanceDied) -> Sequence[LostTask]:
        """The process is gone, and with it what it had in hand; which it had not answered yet."""
        with self._lock:
            self._died = error
            rest, self._open = list(self._open.values()), {}
        for found in rest:
            found.task.fail(error)
        lost = (found for found in rest if found.late is None)
        return [LostTask(found.task.request.id, found.came_ns) for found in lost]

    def __len__(self) -> int:
        return len(self._open)


def _ignoring(call: Callable[[RequestTask], None]) -> Callable[[RequestTask, float], None]:
    return lambda task, _patience_s: call(task)
