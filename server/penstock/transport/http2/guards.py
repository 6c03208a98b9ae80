"""Counts what a hostile peer does too often: token buckets, and a tally for every defence."""

from collections import Counter

from penstock.transport.http2.faults import ConnectionFault
from penstock.transport.http2.frames import ErrorCode
from penstock.transport.http2.limits import Limits, Rate

SECOND_NS = 1_000_000_000


class Bucket:
    """Tokens that come back at a steady rate, up to a burst. Times in monotonic nanoseconds."""

    __slots__ = ("burst", "per_second", "stamp_ns", "tokens")

    def __init__(self, rate: Rate) -> None:
        self.burst = rate.burst
        self.per_second = rate.per_second
        self.tokens = rate.burst
        self.stamp_ns = -1

    def take(self, now_ns: int) -> bool:
        """Take one token; False when none is left, and that one is not counted."""
        if self.tokens > 0:
            self.tokens -= 1
            if self.stamp_ns < 0:
                self.stamp_ns = now_ns
            return True
        return self._refill(now_ns) and self.take(now_ns)

    def _refill(self, now_ns: int) -> bool:
        earned = (now_ns - self.stamp_ns) * self.per_second // SECOND_NS
        if earned <= 0:
            return False
        self.tokens = min(self.burst, earned)
        # Only the time that made whole tokens is used up: slow rates would starve otherwise.
        self.stamp_ns += earned * SECOND_NS // self.per_second
        return True

    def __repr__(self) -> str:
        return f"<Bucket {self.tokens} of {self.burst}, {self.per_second}/s>"


class Guards:
    """The buckets of one connection, by the name of the limit, and what was refused so far."""

    __slots__ = ("_buckets", "_limits", "tallies")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[str, Bucket] = {}
        self.tallies: Counter[str] = Counter()

    def bucket(self, name: str) -> Bucket:
        """The bucket of the limit of this name; made when first asked for."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(getattr(self._limits, name))
        return bucket

    def spend(self, name: str, now_ns: int) -> None:
        """Count one of these; ENHANCE_YOUR_CALM when there were too many of them."""
        if not self.bucket(name).take(now_ns):
            raise self.enough(name)

    def enough(self, name: str) -> ConnectionFault:
        """The end of a connection whose peer did too much of something; counted."""
        self.tallies[name] += 1
        return ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many: {name}")
