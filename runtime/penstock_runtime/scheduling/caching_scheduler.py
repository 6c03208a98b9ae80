"""The response cache in front of a scheduler: what was answered before is answered again, and of
equal requests at one time one is executed, for all.

Every request is counted once: as a hit, which is a success without an execution, or as a miss. Who
waits for another's answer has been accepted: should that fail, or its caller give up, the waiting
are executed themselves, even by a model that accepts nothing more.

Lock order: this scheduler's lock, the cache's. Answers are given, and requests queued, outside.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count

from penstock_runtime.errors import FailureReason, PenstockError
from penstock_runtime.loop_inbox import hold_news, release_news
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferResponse
from penstock_runtime.response_cache import Kept, ResponseCache
from penstock_runtime.scheduling.alarm import Alarm
from penstock_runtime.scheduling.answer_desk import AnswerDesk
from penstock_runtime.scheduling.base import Pending, QueueStats, Refused, Scheduler, submit_each
from penstock_runtime.scheduling.cache_key import key_prefix, request_key
from penstock_runtime.scheduling.endings import given_up, retired
from penstock_runtime.scheduling.flight import Caller, Flight, keep, take_late
from penstock_runtime.scheduling.ordering import Answer, OrderKeeper
from penstock_runtime.scheduling.queue import expired_deadline
from penstock_runtime.scheduling.queue_report import QueueReport
from penstock_runtime.scheduling.timer import Timer

_log = logging.getLogger("penstock.model")

# Failures of a request itself, which say nothing of others that are equal: one of these is executed
# for the rest. After any other failure each is executed alone, as a batch's members are.
_PERSONAL = (FailureReason.CANCELED, FailureReason.REJECTED)


class CachingScheduler:
    """Between the requests for one version of a model and the scheduler that executes them."""

    def __init__(
        self,
        inner: Scheduler,
        cache: ResponseCache,
        statistics: ModelStatistics,
        timer: Timer,
        *,
        preserve_ordering: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._inner = inner
        self._cache = cache
        self._owner = cache.new_owner()
        self._statistics = statistics
        self._prefix = key_prefix(statistics.model, statistics.version, self._owner)
        self._desk = AnswerDesk(statistics, OrderKeeper() if preserve_ordering else None, clock)
        self._clock = clock
        self._numbers = count()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._flights: dict[bytes, Flight] = {}
        self._waiting = 0
        self._accepting = True
        self._stopped = False
        self._alarm = Alarm(timer.call_at)

    # -- from the front --------------------------------------------------------------------------

    def submit(self, pending: Pending) -> None:
        """Answer the request from the cache, let it wait for an equal one, or queue it; raises what
        refuses it.
        """
        if not self._accepting:
            raise retired()
        begun = self._clock()
        caller = Caller(pending, next(self._numbers), request_key(pending, self._prefix), begun)
        self._desk.enter(caller)
        try:
            self._place(caller)
        except PenstockError:
            self._desk.answer(caller, _nothing)
            raise

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """As `submit` for each of them; those that were refused, and why."""
        # What is answered here is told of together.
        hold_news()
        try:
            return submit_each(self.submit, pendings)
        finally:
            release_news()

    def renew(self) -> None:
        """Forget what was kept, and keep nothing for others that comes of what is under way: the
        answers would be others now.
        """
        with self._lock:
            old, self._owner = self._owner, self._cache.new_owner()
            made = self._statistics
            self._prefix = key_prefix(made.model, made.version, self._owner)
        self._cache.forget(old)

    def _place(self, caller: Caller, *, accepted: bool = False) -> None:
        """Answer, let wait or execute; `accepted` are those that have waited before."""
        key = caller.key
        if key is None:
            self._execute(Flight(self, caller))
            return
        with self._lock:
            if not (self._accepting or accepted):
                raise retired()
            now = self._clock()
            kept = self._cache.get(key, now)
            found = None if kept is not None else self._flights.get(key)
            joined = found if found is not None and _may_wait(caller, found) else None
            if joined is not None:
                self._join(joined, caller)
            elif kept is None:
                flight = Flight(self, caller)
                self._flights.setdefault(key, flight)
        if not accepted:
            caller.lookup_ns = now - caller.begun_ns
        if kept is not None:
            self._desk.hit(caller, kept)
        elif joined is not None:
            self._await(joined, caller)
        else:
            self._execute(flight)

    def _execute(self, flight: Flight) -> None:
        """Queue the request of a flight; raises what refuses it."""
        try:
            self._inner.submit(flight.pending())
        except PenstockError as error:
            followers = self._end(flight)
            self._desk.missed(flight.caller)
            self._again(followers, share=error.failure in _PERSONAL)
            raise
        flight.caller.pending.queued_at(flight.give_up)

    # -- how a flight ends: called by whatever thread answers it ---------------------------------

    def landed(self, flight: Flight, response: InferResponse | None, answer: Answer) -> None:
        """Keep the response, give it to the caller and to those who wait for it."""
        started = self._clock()
        kept = self._keep(flight, response)
        followers = self._end(flight, kept)
        self._desk.missed(flight.caller, self._clock() - started)
        try:
            self._desk.answer(flight.caller, answer)
        finally:
            self._share(followers, kept, again_as_one=flight.cancelled)

    def _share(self, followers: Sequence[Caller], kept: Kept | None, *, again_as_one: bool) -> None:
        if kept is None:
            self._again(followers, share=again_as_one)
            return
        for follower in followers:
            self._desk.hit(follower, kept)
            self._left(1)

    def failed(self, flight: Flight, error: PenstockError | None) -> None:
        """The caller gets its error; those who wait are executed."""
        followers = self._end(flight)
        self._desk.missed(flight.caller)
        self._desk.answer(flight.caller, partial(flight.end_caller, error))
        self._again(followers, share=error is not None and error.failure in _PERSONAL)

    def _keep(self, flight: Flight, response: InferResponse | None) -> Kept | None:
        """The response for others, if it is for others; what only waits for it may be larger than
        the cache.
        """
        if flight.caller.key is None or response is None:
            return None
        limit = 1 << 62 if flight.followers else self._cache.limit_bytes
        try:
            return keep(response, limit)
        except Exception:
            # The caller gets what the model made, and the encoder says what is wrong with it.
            _log.debug("a response of %r cannot be kept", self._desk, exc_info=True)
            return None

    def _end(self, flight: Flight, kept: Kept | None = None) -> list[Caller]:
        """Keep its answer and let nobody join the flight any more; those who had. In one step: who
        comes now finds the flight or the answer.
        """
        key = flight.caller.key
        if key is None:
            return []
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if kept is not None and not self._stopped:
                self._cache.put(key, kept, self._owner, self._clock())
            followers = list(flight.followers.values())
            flight.followers.clear()
        return followers

    def _again(self, callers: Iterable[Caller], *, share: bool) -> None:
        """Execute those who waited in vain: one for all, or each alone."""
        for caller in callers:
            try:
                if share:
                    self._place(caller, accepted=True)
                else:
                    self._execute(Flight(self, caller))
            except PenstockError as error:
                self._desk.fail(caller, error)
            # Only now: the queue counts it, or it has its answer.
            self._left(1)

    # -- those who wait --------------------------------------------------------------------------

    def _join(self, flight: Flight, caller: Caller) -> None:
        """Wait for the answer of another's; under the lock."""
        flight.followers[caller.pending] = caller
        self._waiting += 1

    def _await(self, flight: Flight, caller: Caller) -> None:
        """See to it that the wait ends in time."""
        deadline = caller.pending.deadline_ns
        if deadline is not None:
            with self._lock:
                alarm = self._alarm.need(deadline)
            self._alarm.set(alarm, self._ring)
        caller.pending.queued_at(partial(self._leave, flight))

    def _leave(self, flight: Flight, pending: Pending) -> None:
        """Its caller gave up."""
        with self._lock:
            caller = flight.followers.pop(pending, None)
        if caller is not None:
            self._desk.fail(caller, given_up(pending, self._clock()))
            self._left(1)

    def _ring(self) -> None:
        """Answer those whose deadline has passed; in the timer's thread."""
        now = self._clock()
        with self._lock:
            self._alarm.rung()
            late, soonest = take_late(self._flights.values(), now)
            alarm = self._alarm.need(soonest)
        for caller in late:
            self._desk.fail(caller, expired_deadline(caller.pending, now))
            self._left(1)
        self._alarm.set(alarm, self._ring)

    def _left(self, number: int) -> None:
        """So many do not wait any more."""
        with self._changed:
            self._waiting -= number
            if not self._waiting:
                self._changed.notify_all()

    # -- life cycle ------------------------------------------------------------------------------

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more, wait until all is answered; False if time ran out."""
        until = time.monotonic() + timeout_s
        with self._changed:
            self._accepting = False
            # First those who may still have to be queued.
            self._changed.wait_for(lambda: not self._waiting, timeout_s)
        drained = self._inner.drain(max(until - time.monotonic(), 0.0))
        return drained and not self._waiting

    def stop(self) -> None:
        """Let the instances end; what still waits is answered UNAVAILABLE, what was kept is
        forgotten.
        """
        with self._lock:
            self._accepting, self._stopped = False, True
        self._inner.stop()
        self._cache.forget(self._owner)

    def stats(self) -> QueueStats:
        """What waits to be executed."""
        return self._inner.stats()

    def report(self) -> QueueReport:
        """What waits to be executed, by priority."""
        return self._inner.report()

    @property
    def unanswered(self) -> int:
        """Requests that were accepted and have no last answer yet."""
        return self._inner.unanswered + self._waiting

    def __repr__(self) -> str:
        flights = len(self._flights)
        return f"<CachingScheduler {flights} in the air, {self._waiting} wait, {self._inner!r}>"


def _may_wait(caller: Caller, flight: Flight) -> bool:
    """Whether the flight cannot be what the request is made for, which would then wait for itself:
    what models call, and the steps of an ensemble, are deeper.
    """
    return flight.caller.depth >= caller.depth


def _nothing() -> None:
    pass
