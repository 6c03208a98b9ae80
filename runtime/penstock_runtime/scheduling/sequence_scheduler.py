"""The sequence scheduler acts on what the sequence batcher decides: it accepts requests, hands each
instance the steps of the sequences that have a slot there, and answers what is not executed.

Lock order: the scheduler's own lock, and nothing inside it. Answers are given outside the lock.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from penstock_runtime.errors import FailureReason, PenstockError, Unavailable
from penstock_runtime.loop_inbox import release_news
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.alarm import Alarm
from penstock_runtime.scheduling.base import Dead, Pending, QueueStats, Refused, submit_each
from penstock_runtime.scheduling.endings import given_up, retired
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.scheduling.queue_report import NOTHING_WAITS, QueueLevel, QueueReport
from penstock_runtime.scheduling.sequence import SequenceId, Step
from penstock_runtime.scheduling.sequence_batcher import SequenceBatcher
from penstock_runtime.scheduling.timer import Timer


class SequenceScheduler:
    """Between the requests for one version of a model and the slots of its instances."""

    keeps_order = False
    """Of one sequence's answers the order is kept without further ado."""

    def __init__(
        self,
        batcher: SequenceBatcher,
        statistics: ModelStatistics,
        timer: Timer,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._batcher = batcher
        self._statistics = statistics
        self._timer = timer
        self._clock = clock
        self._lock = threading.Lock()
        # Instances are numbered as they come for the first time.
        self._numbers: dict[Gate, int] = {}
        self._idle: dict[int, Gate] = {}
        self._accepting = True
        self._stopped = False
        # Why nothing is accepted, where that is not because this version goes.
        self._refusal: PenstockError | None = None
        self._lost: set[int] = set()
        self._unanswered = 0
        self._all_over = threading.Event()
        self._alarm = Alarm(timer.call_at)
        self.predictor = WaitPredictor()

    # -- from the front --------------------------------------------------------------------------

    def submit(self, pending: Pending) -> None:
        """Accept the request (answered through its stream), or raise the error that refuses it."""
        now = self._clock()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            if self._stopped or not (self._accepting or self._batcher.continues(pending)):
                raise retired()
            self._batcher.add(pending, now)
            self._unanswered += 1
            gates = self._roused()
            alarm = self._alarm.need(self._batcher.next_expiry())
        for gate in gates:
            pending.stream.soon(gate.open)
        self._alarm.set(alarm, self._ring)
        pending.queued_at(self._cancel)

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """As `submit` for each of them; those that were refused, and why."""
        return submit_each(self.submit, pendings)

    def knows(self, identity: SequenceId) -> bool:
        """Whether there is a sequence of this id that a request may join."""
        with self._lock:
            return not self._stopped and self._batcher.knows(identity)

    def _cancel(self, pending: Pending) -> None:
        """The caller gave up: out of its sequence, if it still waits there."""
        now = self._clock()
        with self._lock:
            waiting = self._batcher.cancel(pending, now)
        if waiting:
            self._bury([Dead(pending, given_up(pending, now))], now)
            self._look(now)
        elif (held := pending.held) is not None:
            held()

    # -- to the instances ------------------------------------------------------------------------

    def next_work(self, gate: Gate, *, several: bool = False) -> Step | None:  # noqa: ARG002
        """What the instance that waits at this gate executes next; None when it should end.

        That it asks says that it has executed what it was given before.
        """
        now = self._clock()
        with self._lock:
            number = self._numbers.setdefault(gate, len(self._numbers))
            self._batcher.done(number, now)
        while True:
            self._look(now)
            with self._lock:
                step = None if gate.dismissed else self._batcher.take(number, now)
                if step is None:
                    if self._stopped or gate.dismissed:
                        return None
                    self._idle[number] = gate
                    wake_at = self._batcher.wake_at(number, now)
            if step is not None:
                return step
            self._wait(gate, number, wake_at, now)
            now = self._clock()

    def _wait(self, gate: Gate, number: int, wake_at: int | None, now: int) -> None:
        release_news()
        gate.wait(None if wake_at is None else max(wake_at - now, 0) / 1e9)
        with self._lock:
            self._idle.pop(number, None)

    def _look(self, now: int) -> None:
        """Answer what is not to be executed any more, and wake who has got something to do."""
        with self._lock:
            if self._stopped:
                self._batcher.abandon(now, retired)
            dead = self._batcher.expire(now)
            gates = self._roused()
            alarm = self._alarm.need(self._batcher.next_expiry())
            self._note_if_over()
        for gate in gates:
            gate.open()
        self._bury(dead, now)
        self._alarm.set(alarm, self._ring)

    def _roused(self) -> list[Gate]:
        """The gates to open; under the lock."""
        return [self._idle.pop(n) for n in self._batcher.roused() if n in self._idle]

    def _ring(self) -> None:
        """See to what has a time; in the timer's thread."""
        with self._lock:
            self._alarm.rung()
        self._look(self._clock())

    def _bury(self, dead: Iterable[Dead], now: int) -> None:
        """Answer requests that were not executed; each is counted once."""
        for item in dead:
            pending, error = item.pending, item.error
            self._statistics.record_failure(error.failure, now - pending.arrived_ns)
            pending.stream.fail(error)
            self.answered(1)

    def answer(self, pending: Pending, answer: Callable[[], object]) -> None:  # noqa: ARG002
        """Give a request its last answer."""
        answer()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Call back at this time; quickly, from the timer's thread."""
        self._timer.call_at(when_ns, callback)

    def answered(self, count: int) -> None:
        """So many of the requests that were handed out have got their last answer."""
        with self._lock:
            self._unanswered -= count
            self._note_if_over()

    def _note_if_over(self) -> None:
        if not (self._accepting or self._unanswered or self._batcher.open_sequences):
            self._all_over.set()

    # -- instances whose processes come and go ----------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether instances are to end."""
        return self._stopped

    def dismiss(self, gate: Gate) -> None:
        """The instance at this gate gets nothing more to execute once it has asked."""
        with self._lock:
            gate.dismissed = True
        gate.open()

    def readmit(self, gate: Gate) -> None:
        """The instance at this gate was called away and is back."""
        with self._lock:
            gate.dismissed = False

    def away(self, gate: Gate) -> None:
        """The process of the instance at this gate is gone, and with it whatever its sequences have
        left there: they are over. Those that have not begun wait for the next one.
        """
        now = self._clock()
        with self._lock:
            number = self._numbers.setdefault(gate, len(self._numbers))
            self._batcher.lose(number, now, _cut_off)
        self._look(now)

    def lose(self, error: PenstockError, gate: Gate) -> None:
        """The instance at this gate is gone for good; with the last of them, whatever comes is
        refused with this error.
        """
        now = self._clock()
        with self._lock:
            number = self._numbers.setdefault(gate, len(self._numbers))
            self._lost.add(number)
            self._batcher.lose(number, now, lambda: error, ever=True)
            if len(self._lost) == self._batcher.instances:
                self._refusal = error
                self._batcher.abandon(now, lambda: error)
        self._look(now)

    # -- life cycle ------------------------------------------------------------------------------

    def close(self) -> None:
        """No sequence starts any more; those that run may go on to their END."""
        with self._lock:
            self._accepting = False
            self._note_if_over()

    def drain(self, timeout_s: float) -> bool:
        """Start no sequence any more, and wait until those that run are over and all is answered;
        False if time ran out. The silent ones are over in their time.
        """
        self.close()
        return self._all_over.wait(timeout_s)

    def stop(self) -> None:
        """Let the instances end; what still waits is answered UNAVAILABLE."""
        with self._lock:
            self._accepting, self._stopped = False, True
            gates, self._idle = list(self._idle.values()), {}
        self._look(self._clock())
        for gate in gates:
            gate.open()

    def stats(self) -> QueueStats:
        """What waits, and in how many sequences."""
        with self._lock:
            return self._batcher.stats()

    def report(self) -> QueueReport:
        """What waits; sequences know no priorities, and nobody can tell when the next one ends."""
        stats = self.stats()
        if not stats.requests:
            return NOTHING_WAITS
        age = self._clock() - stats.oldest_ns
        return QueueReport((QueueLevel(1, stats.requests, stats.rows, age, 0),))

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return self._unanswered

    @property
    def open_sequences(self) -> int:
        """Sequences that have not had their END."""
        return self._batcher.open_sequences

    def __repr__(self) -> str:
        return f"<SequenceScheduler {self._batcher!r}, {self._unanswered} unanswered>"


def _cut_off() -> Unavailable:
    return Unavailable(
        "the process of the instance has ended, and with it all that the sequence has left there:"
        " start it again",
        reason="INSTANCE_DIED",
        failure=FailureReason.BACKEND,
        scheduled=True,
    )
