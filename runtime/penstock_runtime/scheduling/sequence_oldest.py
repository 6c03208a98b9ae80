"""The oldest strategy: up to so many candidate sequences, and a dynamic batcher over the request in
front of each.

A sequence has one request in a batch at most; the requests leave in the order of their arrival,
which is also the order of their answers. Pure.
"""

from collections.abc import Sequence

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching, SequenceOldest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.sequence import LiveSequence, likeness


class OldestSlots:
    """The candidates of one instance."""

    def __init__(self, max_batch_size: int, rules: SequenceOldest) -> None:
        batching = DynamicBatching(
            preferred_batch_size=rules.preferred_batch_size,
            max_queue_delay_microseconds=rules.max_queue_delay_microseconds,
            # Deadlines must not reorder: one instance answers as it executes.
            preserve_ordering=True,
        )
        config = ModelConfig(max_batch_size=max_batch_size, dynamic_batching=batching)
        self._batcher = DynamicBatcher(config)
        self._offered: dict[Pending, LiveSequence] = {}

    def seat(self, sequence: LiveSequence) -> None:
        """Candidates own no rows."""

    def leave(self, sequence: LiveSequence) -> None:
        """Candidates own no rows."""

    def offer(self, sequence: LiveSequence) -> None:
        """The request in front may be executed from now on."""
        pending = sequence.queue[0]
        pending.signature = likeness(sequence)
        self._offered[pending] = sequence
        self._batcher.queue.push(pending)

    def withdraw(self, sequence: LiveSequence) -> None:
        """The request that was offered is not to be executed."""
        pending = sequence.queue[0] if sequence.queue else None
        if pending is not None and self._offered.pop(pending, None) is not None:
            self._batcher.queue.remove(pending)

    def take(self, now: int) -> Sequence[LiveSequence | None] | None:
        """The sequences whose requests are executed now, by rows; None to wait."""
        taken = self._batcher.take(now)
        return None if taken is None else [self._offered.pop(pending) for pending in taken]

    def wake_at(self, now: int) -> int | None:
        """The end of the oldest request's delay."""
        return self._batcher.wake_at(now) if self._offered else None

    def __repr__(self) -> str:
        return f"<OldestSlots {len(self._offered)} requests on offer>"
