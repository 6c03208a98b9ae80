"""Answers in the order of arrival, whatever the order of completion (`preserve_ordering`)."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

Answer = Callable[[], object]


class Numbered(Protocol):
    """Whatever has a number of its own."""

    @property
    def order(self) -> int:
        """The number."""


class OrderKeeper:
    """Holds a finished answer back until every earlier request has been answered."""

    def __init__(self) -> None:
        # Reentrant: an answer may make its consumer cancel or submit in the same thread.
        self._lock = threading.RLock()
        self._waiting: OrderedDict[int, Answer | None] = OrderedDict()

    def enter(self, pending: Numbered) -> None:
        """A request was accepted: its place is behind all that were accepted before."""
        with self._lock:
            self._waiting[pending.order] = None

    def answer(self, pending: Numbered, answer: Answer) -> None:
        """A request is done: answer it, and those behind it that were held back, when its turn has
        come.
        """
        with self._lock:
            if pending.order not in self._waiting:
                answer()
                return
            self._waiting[pending.order] = answer
            while self._waiting:
                order, ready = next(iter(self._waiting.items()))
                if ready is None:
                    return
                del self._waiting[order]
                ready()
