"""The direct strategy: a sequence owns a row of the batch from its START to its end.

A batch has rows up to the highest slot in use; a row whose sequence has no request, or one that
cannot share the batch, is not ready. Pure.
"""

from collections.abc import Sequence

from penstock_runtime.config_scheduling import SequenceDirect
from penstock_runtime.scheduling.sequence import LiveSequence, likeness


class DirectSlots:
    """The rows of one instance."""

    def __init__(self, rows: int, rules: SequenceDirect) -> None:
        self._rows = rows
        self._delay_ns = rules.max_queue_delay_microseconds * 1000
        self._least_share = rules.minimum_slot_utilization
        self._seated: set[int] = set()
        self._ready: dict[int, LiveSequence] = {}

    def seat(self, sequence: LiveSequence) -> None:
        """The sequence has got a slot of this instance."""
        self._seated.add(_row(sequence))

    def leave(self, sequence: LiveSequence) -> None:
        """The sequence gives its slot up; its request is not on offer."""
        self._seated.discard(_row(sequence))

    def offer(self, sequence: LiveSequence) -> None:
        """The request in front may be executed from now on."""
        self._ready[_row(sequence)] = sequence

    def withdraw(self, sequence: LiveSequence) -> None:
        """The request that was offered is not to be executed."""
        self._ready.pop(_row(sequence), None)

    def take(self, now: int) -> Sequence[LiveSequence | None] | None:
        """The sequences whose requests are executed now, by rows; None to wait.

        What the request that waits longest is like, all in the batch are.
        """
        if not self._ready or not self._is_time(now):
            return None
        wanted = likeness(min(self._ready.values(), key=_arrival))
        rows: list[LiveSequence | None] = [None] * (max(self._seated) + 1)
        for row, sequence in tuple(self._ready.items()):
            if likeness(sequence) == wanted:
                rows[row] = self._ready.pop(row)
        return rows

    def wake_at(self, now: int) -> int | None:
        """The end of the delay, while too few rows are ready."""
        return None if not self._ready or self._is_time(now) else self._delay_ends()

    def _is_time(self, now: int) -> bool:
        return len(self._ready) / self._rows >= self._least_share or now >= self._delay_ends()

    def _delay_ends(self) -> int:
        return min(map(_arrival, self._ready.values())) + self._delay_ns

    def __repr__(self) -> str:
        return f"<DirectSlots {len(self._seated)} of {self._rows} used, {len(self._ready)} ready>"


def _row(sequence: LiveSequence) -> int:
    assert sequence.slot is not None
    return sequence.slot.number


def _arrival(sequence: LiveSequence) -> int:
    return sequence.queue[0].arrived_ns
