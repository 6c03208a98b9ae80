"""The thread that looks at the model repository every so often.

A look that fails is logged and the next one comes all the same.
"""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger("penstock.repository")


class Watcher:
    """Calls `look` every `seconds`.

    `wait(seconds)` sleeps that long and says whether it was told to end meanwhile; a test brings
    its own.
    """

    def __init__(
        self,
        look: Callable[[], None],
        seconds: float,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._stopping = threading.Event()
        self._wait = wait if wait is not None else self._stopping.wait
        self._thread: threading.Thread | None = None
        self.looks = 0
        self.failures = 0

    @property
    def healthy(self) -> bool:
        """Whether the thread does what was last asked of it: look, or not be there."""
        if self._thread is None or self._stopping.is_set():
            return True
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; the first look comes after the first wait."""
        if self._thread is not None:
            raise RuntimeError("a watcher is started once")
        self._thread = threading.Thread(target=self._run, name="repository-watcher", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End, after the look that is under way; False when that took longer than the time
        allowed.
        """
        self._stopping.set()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._wait(self._seconds) and not self._stopping.is_set():
            try:
                self._look()
            except Exception:
                self.failures += 1
                _log.exception("looking at the model repository failed, it is tried again")
            self.looks += 1

    def __repr__(self) -> str:
        state = "stopped" if self._stopping.is_set() else "watching"
        return f"<Watcher {state}, {self.looks} looks, {self.failures} failed>"
