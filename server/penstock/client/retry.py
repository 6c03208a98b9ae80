"""When a failed call is sent again. Pure: the time and the chance are given."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from penstock.client.errors import InferenceError

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon an UNAVAILABLE call is sent again.

    `attempts` counts the first one; the n-th wait is `initial_backoff_s` * `multiplier`^(n-1), at
    most `max_backoff_s`, give or take the share `jitter` of itself. A server's own word on when to
    come back goes before all of that, and the deadline of the call before everything.
    """

    attempts: int = 4
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    multiplier: float = 2.0
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}, expected at least 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}, expected a share between 0 and 1")


NO_RETRIES = RetryPolicy(attempts=1)


class Retries:
    """The attempts of one call; `deadline_ns` None means that nothing bounds them but the count."""

    __slots__ = ("_chance", "_deadline_ns", "_policy", "failed")

    def __init__(
        self,
        policy: RetryPolicy,
        deadline_ns: int | None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._deadline_ns = deadline_ns
        self._chance = chance
        self.failed = 0

    def delay_after(self, error: InferenceError, now: int) -> int | None:
        """Nanoseconds to wait before the next attempt; None when the error is the answer."""
        self.failed += 1
        if not error.retryable or self.failed >= self._policy.attempts:
            return None
        delay = self._backoff() if error.retry_after_s is None else error.retry_after_s
        delay_ns = int(delay * _NS)
        if self._deadline_ns is not None and now + delay_ns >= self._deadline_ns:
            return None
        return delay_ns

    def _backoff(self) -> float:
        policy = self._policy
        base = policy.initial_backoff_s * policy.multiplier ** (self.failed - 1)
        spread = 1 + policy.jitter * (2 * self._chance() - 1)
        return min(base, policy.max_backoff_s) * spread

    def __repr__(self) -> str:
        return f"Retries({self.failed} failed of {self._policy.attempts})"
