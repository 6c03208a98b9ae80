"""What has to be done when a model forgets a sender or an iterator, by a thread of its own: objects
are collected wherever the interpreter likes, maybe under a lock that is needed for it.
"""

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger("penstock.model")


class Orphans:
    """Does what it is given, in turn; never more than there are requests and calls under way."""

    def __init__(self) -> None:
        # Of all queues this one may be used by a finaliser that interrupts another use of it.
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """See to it that the thread runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="penstock-orphans", daemon=True
                )
                self._thread.start()

    def put(self, work: Callable[[], object]) -> None:
        """Do this soon; safe in any finaliser."""
        self._queue.put(work)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                work()
            except Exception:
                _log.exception("what a model forgot could not be ended")
            # It holds what a request holds, and must not while nothing comes.
            del work


ORPHANS = Orphans()
