"""The thread that takes traces to where they are kept, and the bounded buffer before it: whoever is
traced waits for neither.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from penstock_runtime.observability.tracing import Trace

MOST_TRACES = 2048
MOST_BYTES = 64 << 20

_log = logging.getLogger("penstock.trace")
# Of a place that cannot be written one line a minute is told.
_TELL_NS = 60_000_000_000


class Sink(Protocol):
    """Where traces are kept. Called by one thread only, but for `abandon`."""

    def write(self, traces: Sequence[Trace]) -> None:
        """Keep these; raises if they are lost."""

    def flush(self) -> None:
        """What was kept is complete: what comes next was made under other settings."""

    def close(self) -> None:
        """Nothing more will come."""

    def abandon(self) -> None:
        """Nobody waits any more for what is being kept; from any thread."""


class TraceWriter:
    """Takes traces from any thread and hands them to a sink from its own, some at a time.

    What does not fit, and what the sink loses, is counted. `linger_s` is how long the first waits
    for others, `batch` how many are handed over at once.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        most: int = MOST_TRACES,
        most_bytes: int = MOST_BYTES,
        batch: int = 512,
        linger_s: float = 0.5,
    ) -> None:
        self._sink = sink
        self._most, self._most_bytes = most, most_bytes
        self._batch = min(batch, most)
        self._linger_s = linger_s
        self._changed = threading.Condition()
        self._waiting: list[Trace] = []
        self._size = 0
        self._asked = self._flushed = 0
        self._closing = False
        self._told_ns = -_TELL_NS
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="penstock-trace", daemon=True)
        self._thread.start()

    def put(self, trace: Trace) -> bool:
        """Take one that is over; False if there is no room for it."""
        size = trace.size
        with self._changed:
            full = len(self._waiting) >= self._most or self._size + size > self._most_bytes
            if full or self._closing:
                self.dropped += 1
                return False
            self._waiting.append(trace)
            self._size += size
            if len(self._waiting) in (1, self._batch):
                self._changed.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put is kept, and complete; False if that took too long."""
        with self._changed:
            self._asked += 1
            ticket = self._asked
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._flushed >= ticket, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Hand over what waits and end the thread; False if that took too long."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return True
        self._sink.abandon()
        return False

    # -- its own thread --------------------------------------------------------------------------

    @property
    def _hurried(self) -> bool:
        return self._closing or self._asked > self._flushed

    def _run(self) -> None:
        while True:
            traces, asked, closing = self._next()
            for start in range(0, len(traces), self._batch):
                self._hand_over(traces[start : start + self._batch])
            del traces
            if asked > self._flushed:
                self._end_of(self._sink.flush)
                with self._changed:
                    self._flushed = asked
                    self._changed.notify_all()
            if closing:
                self._end_of(self._sink.close)
                return

    def _next(self) -> tuple[list[Trace], int, bool]:
        """What waits, once it is time for it; what was asked for until then; whether it is all."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._hurried)
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._batch or self._hurried, self._linger_s
            )
            traces, self._waiting, self._size = self._waiting, [], 0
            return traces, self._asked, self._closing

    def _hand_over(self, traces: Sequence[Trace]) -> None:
        try:
            self._sink.write(traces)
        except Exception as error:
            with self._changed:
                self.dropped += len(traces)
            self._complain("%d traces are lost: %s", len(traces), _why(error))
        else:
            self.written += len(traces)

    def _end_of(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._complain("traces may be incomplete: %s", _why(error))

    def _complain(self, text: str, *values: object) -> None:
        now = time.monotonic_ns()
        if now - self._told_ns >= _TELL_NS:
            self._told_ns = now
            _log.warning(text, *values)

    def __repr__(self) -> str:
        return f"TraceWriter(waiting={len(self._waiting)}, dropped={self.dropped})"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
