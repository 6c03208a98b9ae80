"""What an idle instance waits at: opened once per hand-over, so that a burst of requests wakes it
once.
"""

import threading

LONGEST_WAIT_S = 3600.0
"""Locks refuse to be waited for longer than some centuries; whoever waits for a time looks again
after this one."""


class Gate:
    """A binary signal for one waiting thread; lighter than a Condition, which makes a lock per
    wait. One that is `dismissed` is not waited at any more.
    """

    __slots__ = ("_lock", "dismissed")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.dismissed = False

    def open(self) -> None:
        """Let the waiting thread through, now or when it comes."""
        try:
            self._lock.release()
        except RuntimeError:
            # Open already: a late opener met one that came after the wait had timed out.
            return

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until opened, and close again; False when the time ran out, or `LONGEST_WAIT_S`."""
        return self._lock.acquire(
            timeout=-1 if timeout_s is None else min(timeout_s, LONGEST_WAIT_S)
        )
