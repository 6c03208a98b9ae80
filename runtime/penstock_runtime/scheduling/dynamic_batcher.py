"""The dynamic batcher: decides, request by request as Triton does, which requests leave together
and when.

Pure: given the time, no clock, no lock, no device. Idle instances pull; while all are busy the
batch keeps growing in the queue. The static rules are reproducible to the request; deadlines, which
Triton does not schedule by, only reorder inside a priority level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import Cancelled
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.queue_batcher import QueueBatcher


@dataclass(frozen=True, slots=True)
class Cut:
    """How much of the queue's front the rules look at: where to cut, and why."""

    best: int
    count: int
    rows: int
    forced: bool


class DynamicBatcher(QueueBatcher):
    """Forms batches of up to `max_batch_size` rows out of a request queue.

    `hold_until` makes the first batch wait until that many requests are queued (a hook for
    black-box tests).
    """

    def __init__(self, config: ModelConfig, *, hold_until: int = 0) -> None:
        settings = config.dynamic_batching
        self._max_rows = max(config.max_batch_size, 1)
        self._batching = settings is not None and config.max_batch_size > 0
        self.alone = config.alone
        rules = settings or DynamicBatching()
        super().__init__(rules)
        self._preferred = frozenset(rules.preferred_batch_size) or frozenset({self._max_rows})
        self._max_preferred = max(self._preferred)
        self._hold_until = hold_until

    def take(self, now: int) -> Sequence[Pending] | None:
        """The requests to execute together now; None while it is better, or prescribed, to wait."""
        if not self.queue.size or self._held():
            return None
        if not self._batching:
            return self.queue.pop_front(1)
        count = self._decide(self._look(), now)
        return self.queue.pop_front(count) if count else None

    def wake_at(self, now: int) -> int | None:
        """When to ask again if nothing arrives; a batch that is held waits for arrivals only."""
        return self.queue.next_expiry() if self._hold_until else super().wake_at(now)

    def rows_per_batch(self) -> int:
        """The rows of a full batch, for predictions."""
        return self._max_preferred if self._batching else 1

    # -- the rules -------------------------------------------------------------------------------

    def _held(self) -> bool:
        if self._hold_until and self.queue.size >= self._hold_until:
            self._hold_until = 0
        return self._hold_until > 0

    def _look(self) -> Cut:
        """Walk the queue in order of execution until the batch is full or something does not
        fit.
        """
        best = count = rows = 0
        forced, signature = False, None
        for pending in self.queue:
            if rows:
                grown = rows + pending.batch_size
                if grown > self._max_preferred and not best:
                    best = count
                if grown > self._max_rows or pending.signature != signature:
                    forced = True
                    break
            else:
                signature = pending.signature
            count += 1
            rows += pending.batch_size
            if rows in self._preferred:
                best = count
        return Cut(best, count, rows, forced)

    def _decide(self, cut: Cut, now: int) -> int:
        """How many requests from the front are executed now; 0 to wait."""
        late = bool(self._delay_ns) and now - self.queue.oldest_ns() >= self._delay_ns
        if cut.best and not late:
            return cut.best
        if cut.forced or cut.rows >= self._max_preferred or late or not self._delay_ns:
            return cut.count
        return 0

    def __repr__(self) -> str:
        return f"<DynamicBatcher {self.queue.size} requests, {self.queue.rows} rows waiting>"


def cancelled_error() -> Cancelled:
    """The error of a request that its caller gave up."""
    return Cancelled("the request was cancelled", reason="CANCELLED", scheduled=True)
