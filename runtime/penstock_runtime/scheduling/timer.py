"""One thread that calls back at given times, for all schedulers of the process.

Requests that expire while every instance is busy are answered at their time, not when an instance
happens to look. The thread starts with the first appointment and is a daemon: it holds nothing that
must be closed.
"""

import logging
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from penstock_runtime.scheduling.gate import LONGEST_WAIT_S

_log = logging.getLogger("penstock.timer")


class Timer:
    """A heap of appointments and the thread that keeps them."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._thread: threading.Thread | None = None

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Call back once the monotonic clock reads `when_ns`; quickly, from the timer's thread."""
        with self._changed:
            first = not self._due or when_ns < self._due[0][0]
            heappush(self._due, (when_ns, next(self._numbers), callback))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="penstock-timer", daemon=True
                )
                self._thread.start()
            elif first:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            callback = self._next()
            try:
                callback()
            except Exception:
                # One scheduler's fault must not stop the deadlines of all the others.
                _log.exception("an appointment failed")

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                if not self._due:
                    self._changed.wait()
                    continue
                rest_ns = self._due[0][0] - self._clock()
                if rest_ns <= 0:
                    return heappop(self._due)[2]
                self._changed.wait(min(rest_ns / 1e9, LONGEST_WAIT_S))

    def __repr__(self) -> str:
        return f"<Timer {len(self._due)} appointments>"
