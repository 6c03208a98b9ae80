"""Deadlines of all calls of a transport on one timer: adding one and taking it back cost a set
operation each, whether or not the deadline is ever reached.

Those of the next seconds stand in ticks, the others together in one set that is looked through
once a second. A deadline is noticed up to one tick late and never early.
"""

from collections.abc import Callable
from typing import Any, Protocol

_SHIFT = 23
TICK_NS = 1 << _SHIFT
"""About 8.4 ms."""
SPAN_NS = 1 << 31
"""How far ahead ticks reach: about 2.1 s."""
_NEVER = 1 << 63


class Timed(Protocol):
    """What has a deadline. `bucket` belongs to the wheel: None while the item is not in it."""

    bucket: set[Any] | None


class DeadlineWheel:
    """Who is to be told when. `arm` is asked to call `fire` once it is that time (monotonic ns);
    only the earliest time it was asked for since the last `fire` counts.
    """

    __slots__ = ("_arm", "_armed_ns", "_cascade_ns", "_far", "_horizon_ns", "_near")

    def __init__(self, arm: Callable[[int], None]) -> None:
        self._arm = arm
        self._armed_ns = _NEVER
        self._near: dict[int, set[Any]] = {}
        self._far: set[Any] = set()
        self._horizon_ns = 0
        self._cascade_ns = 0

    def add(self, item: Timed, deadline_ns: int, now_ns: int) -> None:
        """Tell of this item when its deadline has passed. It must not be in the wheel."""
        if self._armed_ns == _NEVER:
            # Nothing was in here for a while: the horizon is where it was then.
            self._look_ahead(now_ns)
        if deadline_ns >= self._horizon_ns:
            bucket, wake_ns = self._far, self._cascade_ns
        else:
            bucket, wake_ns = self._tick(deadline_ns)
        bucket.add(item)
        item.bucket = bucket
        if wake_ns < self._armed_ns:
            self._armed_ns = wake_ns
            self._arm(wake_ns)

    def discard(self, item: Timed) -> None:
        """Forget an item; it may have been told of already, or never been added."""
        bucket = item.bucket
        if bucket is not None:
            bucket.discard(item)
            item.bucket = None

    def fire(self, now_ns: int) -> list[Any]:
        """The items whose deadlines have passed, earliest ticks first; asks to be called again."""
        if now_ns >= self._cascade_ns:
            self._look_ahead(now_ns)
        due = sorted(tick for tick in self._near if (tick + 1) << _SHIFT <= now_ns)
        expired = [item for tick in due for item in self._near.pop(tick)]
        for item in expired:
            item.bucket = None
        self._rearm()
        return expired

    def _tick(self, deadline_ns: int) -> tuple[set[Any], int]:
        tick = deadline_ns >> _SHIFT
        bucket = self._near.get(tick)
        if bucket is None:
            bucket = self._near[tick] = set()
        return bucket, (tick + 1) << _SHIFT

    def _look_ahead(self, now_ns: int) -> None:
        """Move the horizon, and into ticks what has come within it."""
        self._horizon_ns = now_ns + SPAN_NS
        self._cascade_ns = now_ns + SPAN_NS // 2
        for item in [item for item in self._far if item.deadline_ns < self._horizon_ns]:
            self._far.discard(item)
            item.bucket, _ = self._tick(item.deadline_ns)
            item.bucket.add(item)

    def _rearm(self) -> None:
        # Ticks that nothing is in any more are dropped here rather than with every discard.
        for tick in [tick for tick, bucket in self._near.items() if not bucket]:
            del self._near[tick]
        wake_ns = (min(self._near) + 1) << _SHIFT if self._near else _NEVER
        if self._far:
            wake_ns = min(wake_ns, self._cascade_ns)
        self._armed_ns = wake_ns
        if wake_ns != _NEVER:
            self._arm(wake_ns)

    def __len__(self) -> int:
        return len(self._far) + sum(map(len, self._near.values()))

    def __repr__(self) -> str:
        return f"<DeadlineWheel {len(self)} deadlines>"
