"""Length-aware batching: requests of like length share a batch, so that little is computed on
padding.

Pure, like the dynamic batcher. The request that should leave first is the anchor of every batch, so
nothing starves; the rest are those whose lengths lie nearest to it (SORT) or in the same bucket
(BUCKET).
"""

from bisect import bisect_left
from collections.abc import Sequence

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_scheduling import DynamicBatching, LengthBatching
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.queue_batcher import QueueBatcher

# How far into the queue a batch may reach for lengths that fit: bounds the work of one decision.
LOOK_AHEAD = 1024
DEFAULT_MAX_PADDING = 0.2


class LengthBatcher(QueueBatcher):
    """Forms batches of like lengths out of a request queue; `pending.length` is what it goes by."""

    def __init__(self, config: ModelConfig, rules: LengthBatching) -> None:
        settings = config.dynamic_batching or DynamicBatching()
        super().__init__(settings)
        self._rules = rules
        self._max_rows = max(config.max_batch_size, 1)
        self._enough = max(settings.preferred_batch_size, default=self._max_rows)
        self._max_padding = rules.max_padding or DEFAULT_MAX_PADDING

    def take(self, now: int) -> Sequence[Pending] | None:
        """The requests to execute together now; None while it is better to wait."""
        if not self.queue.size:
            return None
        chosen = self._choose()
        rows = sum(pending.batch_size for pending in chosen)
        late = now - self.queue.oldest_ns() >= self._delay_ns
        # A batch is also full when more rows wait than fit: what is left out does not suit it.
        if rows < self._enough and self.queue.rows <= self._max_rows and not late:
            return None
        for pending in chosen:
            self.queue.remove(pending)
        return chosen

    def rows_per_batch(self) -> int:
        """The rows of a full batch, for predictions."""
        return self._max_rows

    # -- the choice ------------------------------------------------------------------------------

    def _choose(self) -> list[Pending]:
        """The anchor and the requests that suit it, longest together with nearly as long."""
        anchor, *others = self._candidates()
        if self._rules.strategy == "BUCKET":
            bucket = self.bucket_of(anchor.length)
            others = [p for p in others if self.bucket_of(p.length) == bucket]
        else:
            others.sort(key=lambda p: (abs(p.length - anchor.length), p.order))
        return self._fill(anchor, others)

    def _candidates(self) -> list[Pending]:
        """The front of the queue, as far as one decision looks, of the anchor's signature and
        level.
        """
        found: list[Pending] = []
        for looked, pending in enumerate(self.queue):
            if looked == LOOK_AHEAD:
                break
            if not found or pending.signature == found[0].signature:
                found.append(pending)
        return found

    def _fill(self, anchor: Pending, others: list[Pending]) -> list[Pending]:
        """Add requests while rows, padded elements and the padded share stay within their
        bounds.
        """
        chosen, rows = [anchor], anchor.batch_size
        longest, real = anchor.length, anchor.length * anchor.batch_size
        for pending in others:
            grown = rows + pending.batch_size
            reach = max(longest, pending.length)
            content = real + pending.length * pending.batch_size
            if grown > self._max_rows or not self._fits(grown, reach, content):
                continue
            chosen.append(pending)
            rows, longest, real = grown, reach, content
            if rows == self._max_rows:
                break
        return chosen

    def _fits(self, rows: int, longest: int, content: int) -> bool:
        padded = rows * self.padded_length(longest)
        bound = self._rules.max_batch_elements
        if bound and padded > bound:
            return False
        if self._rules.strategy == "BUCKET" or not padded:
            return True
        return padded - content <= self._max_padding * padded

    def bucket_of(self, length: int) -> int:
        """The bucket that a length falls into; beyond the last boundary it is one more bucket."""
        return bisect_left(self._rules.bucket_boundaries, length)

    def padded_length(self, longest: int) -> int:
        """To what length a batch with this longest member is padded."""
        return padded_length(self._rules, longest)

    def __repr__(self) -> str:
        return f"<LengthBatcher {self._rules.strategy}, {self.queue.size} requests waiting>"


def padded_length(rules: LengthBatching, longest: int) -> int:
    """A bucket's boundary (BUCKET), or the longest member itself (SORT, or beyond the last
    boundary).
    """
    if rules.strategy == "BUCKET":
        at = bisect_left(rules.bucket_boundaries, longest)
        if at < len(rules.bucket_boundaries):
            return rules.bucket_boundaries[at]
    return longest
