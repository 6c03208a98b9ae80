"""The batch scheduler acts on what a batcher decides: it accepts requests, hands batches to idle
instances that ask for them, and answers whatever must not be executed any more.

Lock order: the scheduler's own lock, and nothing inside it. Answers are given outside the lock.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from penstock_runtime.batch import Batch
from penstock_runtime.errors import PenstockError
from penstock_runtime.loop_inbox import release_news
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.alarm import Alarm
from penstock_runtime.scheduling.base import (
    Batcher,
    Dead,
    Pending,
    QueueStats,
    Refused,
    submit_each,
)
from penstock_runtime.scheduling.endings import given_up, retired
from penstock_runtime.scheduling.foresight import admit, in_time
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.ordering import OrderKeeper
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.scheduling.queue_levels import report_of
from penstock_runtime.scheduling.queue_report import QueueReport
from penstock_runtime.scheduling.timer import Timer

Clock = Callable[[], int]
Work = Batch | list[Pending]
"""A batch, or requests to execute one by one."""

# Executions this short are cheaper than what goes on around each of them: an instance takes several
# at once, up to so many and so long, and wakes the event loop once for all.
SHORT_NS = 200_000
HANDFUL_NS = 500_000
MOST_IN_HAND = 63


class BatchScheduler:
    """Between the requests for one version of a model and its instances."""

    def __init__(
        self,
        batcher: Batcher,
        statistics: ModelStatistics,
        timer: Timer,
        *,
        instances: int = 1,
        preserve_ordering: bool = False,
        clock: Clock = time.monotonic_ns,
        predictor: WaitPredictor | None = None,
    ) -> None:
        self._batcher = batcher
        self._statistics = statistics
        self._timer = timer
        self._clock = clock
        self._instances = instances
        self._lost = 0
        self._lock = threading.Lock()
        self._idle: list[Gate] = []
        self._accepting = True
        self._stopped = False
        # Why nothing is accepted, where that is not because this version goes.
        self._refusal: PenstockError | None = None
        self._unanswered = 0
        self._all_answered = threading.Event()
        self._alarm = Alarm(timer.call_at)
        self._ordered = preserve_ordering
        self._order = OrderKeeper() if preserve_ordering and instances > 1 else None
        self.predictor = predictor if predictor is not None else WaitPredictor()

    # -- from the front --------------------------------------------------------------------------

    def submit(self, pending: Pending) -> None:
        """Accept the request (answered through its stream), or raise the error that refuses it."""
        # The time matters to deadlines only.
        now = pending.arrived_ns if pending.deadline_ns is None else self._clock()
        with self._lock:
            if not self._accepting:
                raise self._refusal or retired()
            # An idle instance always gets a try.
            if pending.deadline_ns is not None and not self._idle:
                batcher, predictor = self._batcher, self.predictor
                admit(batcher, predictor, self._instances, pending, pending.deadline_ns, now)
            self._batcher.add(pending, now)
            self._unanswered += 1
            if self._order is not None:
                self._order.enter(pending)
            gate = self._idle.pop() if self._idle else None
            timed = pending.deadline_ns is not None or pending.timeout_ns is not None
            alarm = self._alarm.need(self._batcher.next_expiry()) if timed else None
        if gate is not None:
            pending.stream.soon(gate.open)
        self._alarm.set(alarm, self._ring)
        pending.queued_at(self._cancel)

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """As `submit` for each of them, at less cost; those that were refused, and why.

        Instances that were idle are woken at once: call it when all have come that will.
        """
        deadlines = [p.deadline_ns for p in pendings if p.deadline_ns is not None]
        woken = alarm = None
        with self._lock:
            # Whatever might be refused goes one by one; so does what has to keep an order.
            if (
                self._accepting
                and self._order is None
                and self._in_time(pendings, deadlines)
                and self._batcher.add_plain(pendings)
            ):
                number = len(pendings)
                self._unanswered += number
                woken, self._idle = self._idle[:number], self._idle[number:]
                alarm = self._alarm.need(self._batcher.next_expiry()) if deadlines else None
        if woken is None:
            return submit_each(self.submit, pendings)
        for gate in woken:
            gate.open()
        self._alarm.set(alarm, self._ring)
        for pending in pendings:
            pending.queued_at(self._cancel)
        return ()

    def _in_time(self, pendings: Sequence[Pending], deadlines: Sequence[int]) -> bool:
        """Whether even the last of these would be executed before the first of their deadlines."""
        if not deadlines:
            return True
        first, now = min(deadlines), self._clock()
        if self._idle:
            return first > now
        batcher, predictor = self._batcher, self.predictor
        return in_time(batcher, predictor, self._instances, pendings, first, now)

    def _cancel(self, pending: Pending) -> None:
        """The caller gave up: out of the queue, if it still waits there."""
        with self._lock:
            waiting = self._batcher.cancel(pending)
        if not waiting:
            held = pending.held
            if held is not None:
                held()
            return
        now = self._clock()
        self._bury([Dead(pending, given_up(pending, now))], now)

    # -- to the instances ------------------------------------------------------------------------

    def next_work(self, gate: Gate, *, several: bool = False) -> Work | None:
        """What the instance that waits at this gate executes next; None when it should end.

        Requests to execute one by one only if `several` are welcome, the model does not batch and
        executions are so short that the hand-over would take longest.
        """
        several = several and self._batcher.alone
        while True:
            now = self._clock()
            with self._lock:
                dead = self._batcher.expire(now)
                members = None if gate.dismissed else self._batcher.take(now)
                more = self._more() if several and members is not None else ()
                if members is None and not dead:
                    if self._stopped or gate.dismissed:
                        return None
                    self._idle.append(gate)
                    wake_at = self._batcher.wake_at(now)
            if dead:
                self._bury(dead, now)
            if members is not None:
                return Batch.of(members) if not more else [*members, *more]
            if not dead:
                self._wait(gate, wake_at, now)

    def _more(self) -> Sequence[Pending]:
        """Single requests to go with one that was taken; under the lock."""
        handful = self._handful()
        if not handful:
            return ()
        share = self._batcher.stats().requests // self._instances
        most = min(share, handful, MOST_IN_HAND)
        return self._batcher.take_alone(most) if most else ()

    def _handful(self) -> int:
        """How many executions a handful's time holds; 0 if they are not known to be short."""
        mean_ns = self.predictor.mean_ns
        return int(HANDFUL_NS / mean_ns) if 0 < mean_ns < SHORT_NS else 0

    def _wait(self, gate: Gate, wake_at: int | None, now: int) -> None:
        release_news()
        gate.wait(None if wake_at is None else max(wake_at - now, 0) / 1e9)
        with self._lock:
            if gate in self._idle:
                self._idle.remove(gate)

    @property
    def keeps_order(self) -> bool:
        """Whether an answer may have to wait for those before it."""
        return self._order is not None

    def answer(self, pending: Pending, answer: Callable[[], object]) -> None:
        """Give a request its last answer: now, or when those before it have theirs."""
        if self._order is None:
            answer()
        else:
            self._order.answer(pending, answer)

    def answered(self, count: int) -> None:
        """So many of the requests that were handed out have got their last answer."""
        with self._lock:
            self._unanswered -= count
            if not self._unanswered and not self._accepting:
                self._all_answered.set()

    # -- time ------------------------------------------------------------------------------------

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Call back at this time; quickly, from the timer's thread."""
        self._timer.call_at(when_ns, callback)

    def _ring(self) -> None:
        """Answer what expired while all instances were busy; in the timer's thread."""
        now = self._clock()
        with self._lock:
            dead = self._batcher.expire(now)
            self._alarm.rung()
            alarm = self._alarm.need(self._batcher.next_expiry())
        self._bury(dead, now)
        self._alarm.set(alarm, self._ring)

    def _bury(self, dead: Iterable[Dead], now: int) -> None:
        """Answer requests that left the queue without being executed; each is counted once."""
        for item in dead:
            self._statistics.record_failure(item.error.failure, now - item.pending.arrived_ns)
            self.answer(item.pending, partial(item.pending.stream.fail, item.error))
            self.answered(1)

    # -- instances that come and go --------------------------------------------------------------

    def may_have(self, instances: int) -> bool:
        """Whether so many instances can do: what is in hand may be in no order to keep yet."""
        return instances == 1 or not self._ordered or self._order is not None

    def resize(self, instances: int) -> None:
        """So many instances ask for work from now on; for predictions, and for batchers that go by
        them.
        """
        with self._lock:
            self._instances = instances
            self._batcher.resize(instances)

    def dismiss(self, gate: Gate) -> None:
        """The instance at this gate gets nothing more to execute once it has asked."""
        with self._lock:
            gate.dismissed = True
        gate.open()

    def leave(self, gate: Gate) -> None:
        """The instance at this gate is gone; another looks after what it may have been woken for,
        or was waiting for.
        """
        with self._lock:
            if gate in self._idle:
                self._idle.remove(gate)
            heir = self._idle.pop() if self._idle and self._batcher.stats().requests else None
        if heir is not None:
            heir.open()

    @property
    def stopped(self) -> bool:
        """Whether instances are to end."""
        return self._stopped

    def away(self, gate: Gate) -> None:
        """The instance at this gate cannot execute for a while; another looks after what it may
        have been woken for.
        """
        self.leave(gate)

    def readmit(self, gate: Gate) -> None:
        """The instance at this gate was called away and is back."""
        with self._lock:
            gate.dismissed = False

    def lose(self, error: PenstockError, gate: Gate) -> None:
        """The instance at this gate is gone for good; with the last of them, what waits and what
        comes is answered with this error.
        """
        self.leave(gate)
        now = self._clock()
        with self._lock:
            self._lost += 1
            if self._lost < self._instances or self._stopped:
                return
            self._accepting, self._refusal = False, error
            rest = self._empty_queue()
        self._bury([Dead(pending, error) for pending in rest], now)

    # -- life cycle ------------------------------------------------------------------------------

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, wait until all is answered; False if time ran out."""
        with self._lock:
            self._accepting = False
            if not self._unanswered:
                return True
        return self._all_answered.wait(timeout_s)

    def stop(self) -> None:
        """Let the instances end; what still waits is answered UNAVAILABLE."""
        now = self._clock()
        with self._lock:
            self._accepting, self._stopped = False, True
            rest = self._empty_queue()
            gates, self._idle = self._idle, []
        self._bury([Dead(pending, retired()) for pending in rest], now)
        for gate in gates:
            gate.open()

    def _empty_queue(self) -> list[Pending]:
        rest: list[Pending] = []
        # Far in the future every delay has passed, so the batcher gives away all it has.
        while (members := self._batcher.take(2**62)) is not None:
            rest.extend(members)
        return rest

    def stats(self) -> QueueStats:
        """What waits."""
        with self._lock:
            return self._batcher.stats()

    def report(self) -> QueueReport:
        """What waits, by priority, and how long one more at each would wait."""
        now = self._clock()
        with self._lock:
            levels = self._batcher.levels()
            choice = getattr(self._batcher, "choice", None)
        rows = self._batcher.rows_per_batch()
        return report_of(
            levels, now, lambda ahead: self.predictor.wait_ns(ahead, rows, self._instances), choice
        )

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return self._unanswered

    def __repr__(self) -> str:
        return f"<BatchScheduler {self._batcher!r}, {self._unanswered} unanswered>"
