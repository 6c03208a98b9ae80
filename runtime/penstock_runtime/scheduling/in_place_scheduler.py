"""A scheduler whose one instance may be executed by whoever brings requests, instead of being woken
for them: for models whose executions are so short that the way to another thread and back takes
longest.
"""

from collections.abc import Sequence
from typing import Protocol

from penstock_runtime.scheduling.base import Dead, Pending, Refused
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler


class Hand(Protocol):
    """An instance, as those see it who execute it in their own thread."""

    def seize(self) -> bool:
        """Whether it may be executed now; nobody else does until `release`. Does not wait for
        longer than a handful of short executions takes.
        """

    def release(self) -> None:
        """Let others execute it."""

    def execute(self, members: Sequence[Pending]) -> None:
        """Answer these one by one, and tell those who wait for it at once."""


class InPlaceScheduler(BatchScheduler):
    """Between the requests for one version of a model and its one instance."""

    _hand: Hand | None = None

    def borrow(self, hand: Hand | None) -> None:
        """The instance that may be executed in place from now on; None: none."""
        self._hand = hand

    def submit_all(self, pendings: Sequence[Pending]) -> Sequence[Refused]:
        """Execute them here if that takes no longer than a handful of short executions does;
        otherwise as any scheduler.
        """
        hand = self._hand
        if hand is None or len(pendings) > self._handful() or not hand.seize():
            return super().submit_all(pendings)
        try:
            members = self._take_all(pendings)
            if members:
                hand.execute(members)
        finally:
            hand.release()
        return () if members else super().submit_all(pendings)

    def _take_all(self, pendings: Sequence[Pending]) -> Sequence[Pending]:
        """These and whatever waits before them, accepted; nothing if they have to be queued."""
        dead: list[Dead] = []
        now = self._clock()
        with self._lock:
            waiting = self._batcher.stats().requests
            if waiting:
                dead = self._batcher.expire(now)
                waiting -= len(dead)
            count = waiting + len(pendings)
            members: Sequence[Pending] = ()
            fits = self._accepting and self._order is None and count <= self._handful()
            if fits and self._batcher.add_plain(pendings):
                self._unanswered += len(pendings)
                members = self._batcher.take_alone(count)
        if dead:
            self._bury(dead, now)
        return members
