"""Whether the other end of a silent connection is still there."""

import asyncio
import time
from typing import Protocol

_NS = 1_000_000_000
ANSWER_S = 20.0
"""How long a ping may take."""


class Watched(Protocol):
    """The connection that is tested."""

    def busy(self) -> bool:
        """Whether calls are open: only then silence is tested."""

    def ping(self) -> None:
        """Ask the other end for a sign of life."""

    def give_up(self, reason: str) -> None:
        """Cut the connection off."""


class Keepalive:
    """Pings a connection that was silent for `interval_s` while calls were open, and gives it up
    when nothing at all comes back. `heard_ns` is set whenever something was read.
    """

    def __init__(self, interval_s: float, watched: Watched, answer_s: float = ANSWER_S) -> None:
        self.heard_ns = time.monotonic_ns()
        self._interval_s = interval_s
        self._watched = watched
        self._answer_s = answer_s
        self._asked_ns: int | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(interval_s, self._look)

    def end(self) -> None:
        """Watch no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        now = time.monotonic_ns()
        asked_ns = self._asked_ns
        if asked_ns is not None and self.heard_ns >= asked_ns:
            asked_ns = self._asked_ns = None
        if asked_ns is not None and now - asked_ns >= self._answer_s * _NS:
            self._watched.give_up(f"the server did not answer a ping within {self._answer_s:g} s")
            return
        after_s = self._interval_s - (now - self.heard_ns) / _NS
        if after_s <= 0:
            after_s = min(self._interval_s, self._answer_s)
            if asked_ns is None and self._watched.busy():
                self._asked_ns = now
                self._watched.ping()
        self._timer = self._loop.call_later(after_s, self._look)
