"""Who wants to know that nobody waits for a request any more."""

import threading
from collections.abc import Callable
from functools import partial

Callback = Callable[[], None]


class Watchers:
    """The callbacks of one request, which shares its lock with them. Thread-safe."""

    __slots__ = ("_callbacks", "_lock", "_over")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._callbacks: dict[object, Callback] = {}
        self._over = False

    def add(self, callback: Callback) -> Callback:
        """Call back, from any thread, if nobody waits any more, at once if the request is over;
        what is returned ends that.
        """
        token = object()
        with self._lock:
            over = self._over
            if not over:
                self._callbacks[token] = callback
        if over:
            callback()
        return partial(self._forget, token)

    def _forget(self, token: object) -> None:
        self._callbacks.pop(token, None)

    def close(self, *, gone: bool) -> None:
        """The request is over; those who watch are told if that is because nobody waits."""
        with self._lock:
            self._over = True
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks if gone else ():
            callback()
