"""What every batcher over a request queue has in common: all but the choice of the next batch.

Pure, like the batchers themselves.
"""

from collections.abc import Sequence

from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.scheduling.base import Dead, LevelStats, Pending, QueueStats
from penstock_runtime.scheduling.queue import RequestQueue, expired_deadline


class QueueBatcher:
    """A request queue, and how long its oldest request may wait for company."""

    alone = False

    def __init__(self, rules: DynamicBatching) -> None:
        self._delay_ns = rules.max_queue_delay_microseconds * 1000
        self.queue = make_queue(rules)

    def add(self, pending: Pending, now: int) -> None:
        """Accept the request, or raise: Unavailable when its queue is full, DeadlineExceeded when
        late.
        """
        if pending.deadline_ns is not None and pending.deadline_ns <= now:
            raise expired_deadline(pending, now)
        self.queue.push(pending)

    def take_alone(self, most: int) -> Sequence[Pending]:
        """Up to so many requests to execute one by one; none unless every one is `alone`."""
        return self.queue.pop_front(most) if self.alone else ()

    def add_plain(self, pendings: Sequence[Pending]) -> bool:
        """Accept them all, in the order of their arrival; False, and none is accepted, where the
        queue might refuse one. Deadlines have been looked at.
        """
        return self.queue.push_plain(pendings)

    def expire(self, now: int) -> list[Dead]:
        """Remove and return what must not be executed any more."""
        return self.queue.expire(now)

    def cancel(self, pending: Pending) -> bool:
        """Remove a request that waits; False when it does not wait here."""
        return self.queue.remove(pending)

    def wake_at(self, now: int) -> int | None:
        """When to ask again if nothing arrives: the end of the delay, or the nearest expiry."""
        expiry = self.queue.next_expiry()
        if not self.queue.size or not self._delay_ns:
            return expiry
        end_of_delay = max(self.queue.oldest_ns() + self._delay_ns, now)
        return end_of_delay if expiry is None else min(expiry, end_of_delay)

    def next_expiry(self) -> int | None:
        """When `expire` has something to do; None for never."""
        return self.queue.next_expiry()

    def rows_ahead(self, pending: Pending) -> int:
        """Rows that would be executed before a request that was not added yet (an estimate)."""
        return self.queue.rows_ahead(pending)

    def levels(self) -> Sequence[LevelStats]:
        """What waits, by priority."""
        return self.queue.levels()

    def resize(self, instances: int) -> None:
        """So many instances take batches from now on; only those that choose go by it."""

    def stats(self) -> QueueStats:
        """What waits."""
        return self.queue.stats()


def make_queue(rules: DynamicBatching) -> RequestQueue:
    """The queue that these rules ask for; with preserve_ordering, deadlines do not reorder."""
    return RequestQueue(
        levels=rules.priority_levels,
        default_level=rules.default_priority_level,
        policy=rules.default_queue_policy,
        policies=rules.priority_queue_policy,
        by_deadline=not rules.preserve_ordering,
    )
