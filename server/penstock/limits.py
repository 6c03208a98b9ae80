"""Bounds of the whole server on what requests may hold in memory."""

import os
import threading
from pathlib import Path

from penstock_runtime.errors import ResourceExhausted

RETRY_AFTER_NS = 100_000_000
_GIB = 1 << 30
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class ByteBudget:
    """Bytes of requests in flight. Lives on the event loop."""

    __slots__ = ("limit", "refused", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0

    def take(self, size: int) -> None:
        """Count a request in; ResourceExhausted when the budget is used up.

        One that is larger than the whole budget may come in alone: it could never come otherwise.
        """
        used = self.used
        if used and used + size > self.limit:
            self.refused += 1
            raise ResourceExhausted(
                f"requests in flight hold {used} bytes, a request of {size} more would exceed the "
                f"server's {self.limit}",
                reason="INFLIGHT_BYTES",
                retry_after_ns=RETRY_AFTER_NS,
            )
        self.used = used + size

    def give(self, size: int) -> None:
        """Count a request out."""
        self.used -= size

    def __repr__(self) -> str:
        return f"<ByteBudget {self.used} of {self.limit} bytes>"


class CopyBudget:
    """Bytes that requests had copied out of shared memory, which count towards the budget of what
    is in flight. Thread-safe.
    """

    __slots__ = ("_lock", "_requests", "refused", "used")

    def __init__(self, requests: ByteBudget) -> None:
        self._requests = requests
        self._lock = threading.Lock()
        self.used = 0
        self.refused = 0

    def take(self, size: int) -> None:
        """Count a copy in; ResourceExhausted when the budget is used up.

        Nobody has sent these bytes, so one that is larger than the whole budget never comes in: it
        may be the nothing of a sparse file.
        """
        limit = self._requests.limit
        with self._lock:
            used = self.used + self._requests.used
            if used + size <= limit:
                self.used += size
                return
            self.refused += 1
        raise ResourceExhausted(
            f"requests in flight hold {used} bytes, inputs of {size} bytes in shared memory would "
            f"exceed the server's {limit}",
            reason="INFLIGHT_BYTES",
            retry_after_ns=RETRY_AFTER_NS if size <= limit else -1,
        )

    def give(self, size: int) -> None:
        """Count a copy out."""
        with self._lock:
            self.used -= size

    def __repr__(self) -> str:
        return f"<CopyBudget {self.used} bytes>"


class CopyShare:
    """What one request has taken of the budget."""

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: CopyBudget) -> None:
        self._budget = budget
        self._taken = 0

    def take(self, size: int) -> None:
        """Count a copy in; raises as the budget does."""
        self._budget.take(size)
        self._taken += size

    def give(self) -> None:
        """Count all of them out."""
        self._budget.give(self._taken)
        self._taken = 0


def default_inflight_bytes() -> int:
    """A quarter of the memory; but 1 GiB where that leaves half of the memory to others."""
    memory = memory_bytes()
    return max(memory // 4, min(_GIB, memory // 2))


def memory_bytes() -> int:
    """Bytes that this process may use: the machine's, or the container's where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            memory = min(memory, int(path.read_text()))
        except (OSError, ValueError):
            # Absent, or "max": no limit of this kind.
            continue
    return memory
