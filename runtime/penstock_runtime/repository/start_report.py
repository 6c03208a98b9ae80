"""How far the start of a repository is: each model of it comes up or fails."""

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One model of the start is done, `done` of `total` so far; `reason` is "" when it serves."""

    name: str
    done: int
    total: int
    seconds: float
    reason: str = ""


class StartReport:
    """Counts the models of a start as they come up or fail."""

    def __init__(self, total: int, progress: Callable[[LoadProgress], None] | None) -> None:
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()
        self._all: list[LoadProgress] = []

    def done(self, name: str, seconds: float, reason: str) -> None:
        """One more is done."""
        with self._lock:
            entry = LoadProgress(name, len(self._all) + 1, self._total, seconds, reason)
            self._all.append(entry)
            if self._progress is not None:
                self._progress(entry)

    def failures(self) -> tuple[LoadProgress, ...]:
        """Those that failed, by name."""
        with self._lock:
            return tuple(sorted((e for e in self._all if e.reason), key=lambda e: e.name))
