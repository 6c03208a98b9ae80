"""What of the sequences has a time: their silence, time-outs of the backlog, requests' deadlines.

Pure: a heap of things to look at, in which what is over is passed by and now and then swept out.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.sequence import LiveSequence

Subject = LiveSequence | Pending
_SLACK = 64


class Agenda:
    """Things to look at, and when; `matters` says whether a thing is not over yet."""

    def __init__(self, matters: Callable[[Subject], bool]) -> None:
        self._matters = matters
        self._numbers = count()
        self._due: list[tuple[int, int, Subject]] = []
        self._sweep_at = _SLACK

    def add(self, when_ns: int, subject: Subject) -> None:
        """Look at this then."""
        heappush(self._due, (when_ns, next(self._numbers), subject))
        if len(self._due) > self._sweep_at:
            self._due = [entry for entry in self._due if self._matters(entry[2])]
            heapify(self._due)
            self._sweep_at = 2 * len(self._due) + _SLACK

    def pop(self, now: int) -> Subject | None:
        """The next thing whose time has come; None when there is none."""
        while self._due and self._due[0][0] <= now:
            subject = heappop(self._due)[2]
            if self._matters(subject):
                return subject
        return None

    def next(self) -> int | None:
        """When there is something to look at; None for never."""
        while self._due and not self._matters(self._due[0][2]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def __len__(self) -> int:
        return len(self._due)
