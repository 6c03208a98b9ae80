"""What a stream does about a reader that is slower than its models: producers wait, and a reader
that takes nothing at all is given up.
"""

import asyncio
import threading

from penstock.transport.base import Call
from penstock_runtime.errors import ResourceExhausted

UNCOUNTED_BYTES = 1024


class Pressure:
    """Bytes of responses that one stream has not sent yet. Thread-safe.

    Small responses are not counted: each request may have a bounded number of them anyway, and
    counting costs more than they do.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.unsent = 0
        self._released = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def over(self) -> bool:
        """Whether so much is unsent that nothing should be added."""
        return self.unsent > self.limit

    def add(self, size: int) -> None:
        """Count a response that waits to be sent."""
        if size > UNCOUNTED_BYTES:
            with self._lock:
                self.unsent += size

    def sub(self, size: int) -> None:
        """Count a response that was sent or dropped."""
        if size > UNCOUNTED_BYTES:
            with self._lock:
                self.unsent -= size
                self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Block a producer while too much is unsent; False if time ran out."""
        if not self.over:
            return True
        with self._lock:
            return self._changed.wait_for(lambda: self._released or not self.over, timeout_s)

    def release(self) -> None:
        """The stream is over: nobody has to wait any more."""
        with self._lock:
            self._released = True
            self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<Pressure {self.unsent} of {self.limit} bytes>"


class StallWatch:
    """Ends a call whose reader takes nothing for `stall_s` while a message is being written.

    The writer sets `writing` before each message, and after it counts `written` up.
    """

    def __init__(self, call: Call, stall_s: float, pressure: Pressure) -> None:
        self._call = call
        self._stall_s = stall_s
        self._pressure = pressure
        self._loop = asyncio.get_running_loop()
        self.writing = False
        self.written = 0
        self._seen = 0
        self._since = self._loop.time()
        self._timer = self._loop.call_later(stall_s / 4, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if not self.writing or self.written != self._seen:
            self._seen, self._since = self.written, now
        elif now - self._since >= self._stall_s:
            self._call.abort(self._error())
            return
        self._timer = self._loop.call_later(self._stall_s / 4, self._look)

    def _error(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"the reader of the stream took nothing for {self._stall_s:g} s while "
            f"{self._pressure.unsent} bytes of responses waited",
            reason="SLOW_READER",
        )
