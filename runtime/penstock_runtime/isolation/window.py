"""How far the process of a model may be ahead of those who take what it sends."""

import threading

# How many responses of one request may be on their way, of those that a model answers by itself.
TASK_WINDOW = 32


class Window:
    """How many responses may be sent before the server has taken some."""

    def __init__(self, size: int) -> None:
        self._changed = threading.Condition()
        self._left = size
        self._ended = False

    def add(self, count: int) -> None:
        """So many were taken."""
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def has_room(self) -> bool:
        """Whether `take` would not wait."""
        return self._ended or self._left > 0

    def take(self, timeout_s: float | None = None) -> bool:
        """Wait until one may be sent; False at the end, or if there was none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ended or self._left > 0, timeout_s):
                return False
            self._left -= 1
            return not self._ended
