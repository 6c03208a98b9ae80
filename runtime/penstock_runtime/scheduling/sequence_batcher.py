"""The sequence batcher: decides which sequence a request belongs to, which requests may be executed
now, and what must not be executed any more.

Pure: given the time, no clock, no lock, no thread. Requests of one id are executed strictly one
after the other. A request that is given up leaves a hole, so all that waits in its sequence goes
with it, and the sequence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock_runtime.errors import Cancelled, FailureReason, PenstockError, Unavailable
from penstock_runtime.scheduling.base import Dead, Pending, QueueStats
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.scheduling.queue import expired_deadline, queue_full
from penstock_runtime.scheduling.sequence import LiveSequence, SequenceId, Step, Turn
from penstock_runtime.scheduling.sequence_agenda import Agenda, Subject
from penstock_runtime.scheduling.sequence_ids import SequenceIds
from penstock_runtime.scheduling.sequence_roster import SequenceRoster
from penstock_runtime.scheduling.sequence_slots import Slots


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """How long a silent sequence keeps its slot, how many sequences may wait for one, how many
    requests may wait at all; `hold_until` and `hold_backlog` make the first step wait until so many
    requests wait in slots and in the backlog (hooks for black-box tests).
    """

    idle_ns: int = 1_000_000_000
    backlog: int = 4096
    requests: int = 65536
    hold_until: int = 0
    hold_backlog: int = 0


class SequenceBatcher:
    """The sequences of one model over the `slots` of its instances, `each` of them.

    With `iterative`, every request is a sequence of its own, of as many steps as the model wants.
    """

    def __init__(
        self,
        slots: Sequence[Slots],
        each: int,
        ids: SequenceIds,
        limits: SequenceLimits,
        *,
        iterative: bool = False,
    ) -> None:
        self._slots = slots
        self._ids = ids
        self._limits = limits
        self._iterative = iterative
        self._holds = bool(limits.hold_until or limits.hold_backlog)
        self._roster = SequenceRoster(slots, each, limits.backlog, self._watch)
        self._where: dict[Pending, LiveSequence] = {}
        self._running: list[list[LiveSequence]] = [[] for _ in slots]
        self._agenda = Agenda(self._matters)
        self._dead: list[Dead] = []

    # -- in --------------------------------------------------------------------------------------

    def add(self, pending: Pending, now: int) -> None:
        """Accept the request, or raise the error that refuses it."""
        if pending.deadline_ns is not None and pending.deadline_ns <= now:
            raise expired_deadline(pending, now)
        identity, request = self._ids.of(pending), pending.request
        if len(self._where) >= self._limits.requests:
            raise queue_full()
        if request.sequence_start or self._iterative:
            sequence = self._roster.begin(identity, now)
        else:
            found = self._roster.find(identity)
            if found is None:
                raise self._ids.no_start(identity)
            sequence = found
        sequence.enqueued_ns = now
        sequence.queue.append(pending)
        self._enter(pending, sequence)
        if sequence.slot is None and request.timeout_us:
            self._expire_backlogged(sequence, now + request.timeout_us * 1000)
        if len(sequence.queue) == 1:
            self._roster.offer(sequence)
        if request.sequence_end or self._iterative:
            # The id is free again at once.
            self._roster.close(sequence, now)
        if self._holds:
            self._look_at_hold()

    def continues(self, pending: Pending) -> bool:
        """Whether the request belongs to a sequence that runs."""
        request = pending.request
        starts = request.sequence_start or self._iterative
        return not starts and self.knows(request.correlation_id)

    def knows(self, identity: SequenceId) -> bool:
        """Whether there is a sequence of this id that a request may join."""
        return self._roster.find(identity) is not None

    def _enter(self, pending: Pending, sequence: LiveSequence) -> None:
        self._where[pending] = sequence
        if pending.deadline_ns is not None:
            self._agenda.add(pending.deadline_ns, pending)

    def _expire_backlogged(self, sequence: LiveSequence, when_ns: int) -> None:
        """The earliest time-out of its requests is that of the sequence."""
        if sequence.expires_ns is None or when_ns < sequence.expires_ns:
            sequence.expires_ns = when_ns
            self._agenda.add(when_ns, sequence)

    def _look_at_hold(self) -> None:
        backlogged = sum(sequence.slot is None for sequence in self._where.values())
        in_slots = len(self._where) - backlogged
        if in_slots >= self._limits.hold_until and backlogged >= self._limits.hold_backlog:
            self._holds = False
            self._roster.rouse_all()

    # -- out -------------------------------------------------------------------------------------

    def take(self, instance: int, now: int) -> Step | None:
        """What this instance executes now; None to wait. `done` says that it has."""
        if self._holds:
            return None
        rows = self._slots[instance].take(now)
        if rows is None:
            return None
        self._running[instance] = [sequence for sequence in rows if sequence is not None]
        return Step(tuple(None if sequence is None else self._turn(sequence) for sequence in rows))

    def _turn(self, sequence: LiveSequence) -> Turn:
        pending = sequence.queue.popleft()
        del self._where[pending]
        sequence.running = pending
        start, sequence.begun = not sequence.begun, True
        # When an iterative sequence ends, its model says.
        end = pending.request.sequence_end and not self._iterative
        return Turn(pending, sequence, start, end)

    def done(self, instance: int, now: int) -> None:
        """What this instance took has been executed: who is next, and who wants a further step."""
        ran, self._running[instance] = self._running[instance], []
        for sequence in ran:
            pending, sequence.running = sequence.running, None
            if sequence.again and pending is not None:
                self._put_back(sequence, pending)
            self._roster.offer(sequence)
            self._roster.finish_if_over(sequence, now)

    def _put_back(self, sequence: LiveSequence, pending: Pending) -> None:
        sequence.again = False
        if pending.stream.cancelled:
            self._dead.append(Dead(pending, cancelled_error()))
            return
        sequence.queue.appendleft(pending)
        self._enter(pending, sequence)

    def wake_at(self, instance: int, now: int) -> int | None:
        """When to ask `take` again if nothing arrives before; None for never."""
        return None if self._holds else self._slots[instance].wake_at(now)

    def roused(self) -> set[int]:
        """The instances that have got something to look at since this was asked last."""
        return self._roster.roused()

    # -- the end ---------------------------------------------------------------------------------

    def cancel(self, pending: Pending, now: int) -> bool:
        """Remove a request that waits, and with it all of its sequence that do, which the next
        `expire` gives; False when it does not wait here.
        """
        sequence = self._where.get(pending)
        if sequence is None:
            return False
        self._give_up(sequence, now, _left_behind, but=pending)
        return True

    def expire(self, now: int) -> list[Dead]:
        """Remove and return what must not be executed any more."""
        while (subject := self._agenda.pop(now)) is not None:
            if isinstance(subject, LiveSequence):
                self._look_at(subject, now)
                continue
            self._dead.append(Dead(subject, expired_deadline(subject, now)))
            self._give_up(self._where[subject], now, _left_behind, but=subject)
        dead, self._dead = self._dead, []
        return dead

    def abandon(self, now: int, error: Callable[[], PenstockError]) -> None:
        """Give up all that waits; the next `expire` gives it."""
        for sequence in self._roster.all():
            self._give_up(sequence, now, error)

    def lose(
        self, instance: int, now: int, error: Callable[[], PenstockError], *, ever: bool = False
    ) -> None:
        """What sequences have left at this instance is gone: those that have begun there are over,
        and the next `expire` gives what waits in them; all that have a slot there if it is gone for
        `ever`.
        """
        self.done(instance, now)
        if ever:
            self._roster.remove(instance)
        for sequence in self._roster.all():
            slot = sequence.slot
            if slot is not None and slot.instance == instance and (ever or sequence.begun):
                self._give_up(sequence, now, error)

    def next_expiry(self) -> int | None:
        """When `expire` has something to do; None for never."""
        return self._agenda.next()

    def _watch(self, sequence: LiveSequence) -> None:
        """A sequence in a slot must not be silent for too long."""
        if sequence.open and sequence.watch_ns is None:
            sequence.watch_ns = sequence.enqueued_ns + self._limits.idle_ns
            self._agenda.add(sequence.watch_ns, sequence)

    def _matters(self, subject: Subject) -> bool:
        if isinstance(subject, LiveSequence):
            return not subject.finished and (subject.open or subject.expires_ns is not None)
        return subject in self._where

    def _look_at(self, sequence: LiveSequence, now: int) -> None:
        """A sequence whose time may have come."""
        if sequence.slot is None:
            if sequence.expires_ns is not None and sequence.expires_ns <= now:
                self._give_up(sequence, now, _backlog_expired)
            return
        if sequence.watch_ns is not None and sequence.watch_ns <= now:
            sequence.watch_ns = None
            if sequence.enqueued_ns + self._limits.idle_ns <= now:
                self._roster.close(sequence, now)
            self._watch(sequence)

    def _give_up(
        self,
        sequence: LiveSequence,
        now: int,
        error: Callable[[], PenstockError],
        but: Pending | None = None,
    ) -> None:
        """Answer all that waits in a sequence, but one; the sequence is over."""
        self._roster.withdraw(sequence)
        for pending in sequence.queue:
            del self._where[pending]
            if pending is not but:
                self._dead.append(Dead(pending, error()))
        sequence.queue.clear()
        self._roster.close(sequence, now)

    def stats(self) -> QueueStats:
        """What waits, and in how many sequences."""
        waiting = self._where
        oldest = min((pending.arrived_ns for pending in waiting), default=0)
        return QueueStats(len(waiting), len(waiting), oldest, self._roster.stats())

    @property
    def instances(self) -> int:
        """How many there are, or have been."""
        return len(self._slots)

    @property
    def open_sequences(self) -> int:
        """Sequences that more requests may join."""
        return self._roster.open

    def __repr__(self) -> str:
        return f"<SequenceBatcher {self._roster!r}, {len(self._where)} requests waiting>"


def _backlog_expired() -> Unavailable:
    return Unavailable(
        "timeout of the corresponding sequence has been expired",
        reason="SEQUENCE_TIMEOUT",
        failure=FailureReason.REJECTED,
        scheduled=True,
    )


def _left_behind() -> Cancelled:
    return Cancelled(
        "the request was cancelled, because another one of its sequence was given up",
        reason="CANCELLED",
        scheduled=True,
    )
