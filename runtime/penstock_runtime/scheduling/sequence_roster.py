"""The sequences of one model that are not over: which has which slot, who waits for one, and who
comes after whom.

Pure. Free slots go to the sequences that came first. Sequences of one id follow each other.
"""

import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from operator import attrgetter

from penstock_runtime.errors import FailureReason, ResourceExhausted
from penstock_runtime.scheduling.base import SequenceStats
from penstock_runtime.scheduling.sequence import LiveSequence, SequenceId
from penstock_runtime.scheduling.sequence_ids import shown_id
from penstock_runtime.scheduling.sequence_slots import SlotPool, Slots

_log = logging.getLogger("penstock.model")
_number = attrgetter("number")


class SequenceRoster:
    """The sequences over the slots of all instances, `each` of them, and at most `most_waiting`
    that have none. `on_seat` is told of each that gets one.
    """

    def __init__(
        self,
        slots: Sequence[Slots],
        each: int,
        most_waiting: int,
        on_seat: Callable[[LiveSequence], None],
    ) -> None:
        self._slots = slots
        self._pool = SlotPool(len(slots), each)
        self._most_waiting = most_waiting
        self._on_seat = on_seat
        # The newest of each id.
        self._latest: dict[SequenceId, LiveSequence] = {}
        self._live: set[LiveSequence] = set()
        # By the number of their arrival; one that has another before it comes in after that.
        self._backlog: list[LiveSequence] = []
        self._arrivals = 0
        self._roused: set[int] = set()
        self.open = 0
        """Sequences that more requests may join."""

    def find(self, identity: SequenceId) -> LiveSequence | None:
        """The sequence that a request of this id may join."""
        sequence = self._latest.get(identity)
        return sequence if sequence is not None and sequence.open else None

    def all(self) -> list[LiveSequence]:
        """Every sequence that is not over, the oldest first."""
        return sorted(self._live, key=_number)

    def begin(self, identity: SequenceId, now: int) -> LiveSequence:
        """A new sequence; what is there of the same id comes first, and nothing more joins that.

        ResourceExhausted when too many wait already.
        """
        before = self._latest.get(identity)
        if self._pool.is_empty or (before is not None and _is_busy(before)):
            self._check_room()
        if before is not None and before.open:
            _log.warning(
                "sequence %s starts again before its END: what it has queued is finished first",
                shown_id(identity),
            )
            self.close(before, now)
        self._arrivals += 1
        sequence = self._latest[identity] = LiveSequence(identity, self._arrivals, now)
        self._live.add(sequence)
        self.open += 1
        if before is not None and not before.finished:
            sequence.before, before.after = before, sequence
        else:
            self._backlog.append(sequence)
            self._fill(now)
        return sequence

    def close(self, sequence: LiveSequence, now: int) -> None:
        """Nothing more joins; the sequence is over when its requests are."""
        if sequence.open:
            sequence.open = False
            self.open -= 1
        self.finish_if_over(sequence, now)

    def finish_if_over(self, sequence: LiveSequence, now: int) -> None:
        """Let go of a sequence that nothing more comes of; its slot is for another."""
        if sequence.open or sequence.finished or _is_busy(sequence):
            return
        sequence.finished = True
        self._live.discard(sequence)
        self._unlink(sequence)
        slot = sequence.slot
        if slot is not None:
            self._slots[slot.instance].leave(sequence)
            self._pool.give_back(slot)
        self._fill(now)

    def _unlink(self, sequence: LiveSequence) -> None:
        """Out of the line of its id, and of the backlog."""
        before, after = sequence.before, sequence.after
        if before is None and sequence.slot is None:
            del self._backlog[bisect_left(self._backlog, sequence.number, key=_number)]
        if before is not None:
            before.after = after
        if after is not None:
            after.before = before
            if before is None:
                insort(self._backlog, after, key=_number)
        elif before is not None:
            self._latest[sequence.id] = before
        else:
            del self._latest[sequence.id]

    def _fill(self, now: int) -> None:
        while self._backlog and (slot := self._pool.take()) is not None:
            sequence = self._backlog.pop(0)
            sequence.slot, sequence.expires_ns = slot, None
            # What waited for a slot was not silent by its own will.
            sequence.enqueued_ns = now
            self._slots[slot.instance].seat(sequence)
            self._on_seat(sequence)
            self.offer(sequence)

    def offer(self, sequence: LiveSequence) -> None:
        """Let the request in front be executed, if it can be now."""
        slot = sequence.slot
        if slot is not None and sequence.queue and sequence.running is None:
            self._slots[slot.instance].offer(sequence)
            self._roused.add(slot.instance)

    def remove(self, instance: int) -> None:
        """No sequence gets a slot of this instance any more."""
        self._pool.remove(instance)

    def withdraw(self, sequence: LiveSequence) -> None:
        """The request in front is not to be executed."""
        slot = sequence.slot
        if slot is not None and sequence.queue and sequence.running is None:
            self._slots[slot.instance].withdraw(sequence)

    def rouse_all(self) -> None:
        """Every instance has got something to look at."""
        self._roused.update(range(len(self._slots)))

    def roused(self) -> set[int]:
        """The instances that have got something to look at since this was asked last."""
        roused, self._roused = self._roused, set()
        return roused

    def stats(self) -> SequenceStats:
        """How many sequences have a slot, and how many wait."""
        return SequenceStats(self._pool.used, len(self._live) - self._pool.used)

    def _check_room(self) -> None:
        waiting = len(self._live) - self._pool.used
        if waiting >= self._most_waiting:
            raise ResourceExhausted(
                f"{waiting} sequences wait for a slot already, the most is {self._most_waiting}",
                reason="SEQUENCE_BACKLOG_FULL",
                failure=FailureReason.REJECTED,
                scheduled=True,
            )

    def __repr__(self) -> str:
        return f"<SequenceRoster of {len(self._live)}, {self._pool!r}>"


def _is_busy(sequence: LiveSequence) -> bool:
    return bool(sequence.queue) or sequence.running is not None
