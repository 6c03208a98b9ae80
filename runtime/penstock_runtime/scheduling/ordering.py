"""Answers in the order of arrival, whatever the order of completion (`preserve_ordering`).

Requests of one depth keep their order. What a model, or an ensemble, asks for another request is
deeper than that; if it waited for what is less deep, it might wait for what it is asked for.
"""

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

    @property
    def depth(self) -> int:
        """How many requests it is made inside."""


class OrderKeeper:
    """The lines of all depths, which are few. Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}

    def enter(self, pending: Numbered) -> None:
        """A request was accepted: its place is behind all that were accepted before."""
        self._line(pending).enter(pending)

    def answer(self, pending: Numbered, answer: Answer) -> None:
        """A request is done: answer it in its turn."""
        self._line(pending).answer(pending, answer)

    def _line(self, pending: Numbered) -> "_Line":
        depth = pending.depth
        return self._lines.get(depth) or self._lines.setdefault(depth, _Line())


class _Line:
    """Holds a finished answer back until every earlier request has been answered.

    Answers are given outside the lock, by one thread at a time: an answer may make its consumer
    cancel or submit, here or to another model that keeps an order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answering = False
        self._waiting: OrderedDict[int, Answer | None] = OrderedDict()

    def enter(self, pending: Numbered) -> None:
        """A request was accepted: its place is behind all that were accepted before."""
        with self._lock:
            self._waiting[pending.order] = None

    def answer(self, pending: Numbered, answer: Answer) -> None:
        """A request is done: answer it, and those behind it that were held back, when its turn has
        come. Whoever answers already does it for those that come meanwhile.
        """
        with self._lock:
            in_turn = pending.order in self._waiting
            if in_turn:
                self._waiting[pending.order] = answer
                if self._answering:
                    return
                self._answering = True
        if not in_turn:
            answer()
            return
        try:
            while (ready := self._next()) is not None:
                ready()
        except BaseException:
            # Those behind it have their turn when the next one is done.
            self._answering = False
            raise

    def _next(self) -> Answer | None:
        """The answer whose turn it is; None if that request is not done, or none is left."""
        with self._lock:
            order, ready = next(iter(self._waiting.items()), (0, None))
            if ready is None:
                self._answering = False
                return None
            del self._waiting[order]
            return ready
