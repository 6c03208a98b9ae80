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
        # Made when someone has to wait, which few streams ever see.
        self._changed: threading.Condition | None = None

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
                self._tell()

    def wait(self, timeout_s: float) -> bool:
        """Block a producer while too much is unsent; False if time ran out."""
        if not self.over:
            return True
        with self._lock:
            if self._changed is None:
                self._changed = threading.Condition(self._lock)
            return self._changed.wait_for(lambda: self._released or not self.over, timeout_s)

    def release(self) -> None:
        """The stream is over: nobody has to wait any more."""
        with self._lock:
            self._released = True
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()

    def __repr__(self) -> str:
        return f"<Pressure {self.unsent} of {self.limit} bytes>"


class StallWatch:
    """Ends a call whose reader takes nothing for `stall_s` while something is being written.

    The writer says when it begins to wait, and when that is over.
    """

    def __init__(self, call: Call, stall_s: float, pressure: Pressure) -> None:
        self._call = call
        self._stall_s = stall_s
        self._pressure = pressure
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The writer waits from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._stall_s, self._give_up)

    def end(self) -> None:
        """It does not wait any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self._call.abort(self._error())

    def _error(self) -> ResourceExhausted:
        return ResourceExhausted(
            f"the reader of the stream took nothing for {self._stall_s:g} s while "
            f"{self._pressure.unsent} bytes of responses waited",
            reason="SLOW_READER",
        )
