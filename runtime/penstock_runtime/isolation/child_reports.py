"""What the process of a language model reports to its server: what its engine has done, its calls
that are over, and how far its weights are read.

Nothing here keeps an engine waiting, and what waits for the server is bounded: of an engine there
is only its present state to tell, and records beyond a bound are counted in place of being kept.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from penstock_runtime.isolation.call_notes import record_note
from penstock_runtime.isolation.engine_notes import engine_note
from penstock_runtime.isolation.frames import Kind
from penstock_runtime.isolation.pace import SOON_S, Pace
from penstock_runtime.llm.calls import MOST_BYTES, MOST_RECORDS, CallRecord
from penstock_runtime.observability.engine_metrics import (
    Engine,
    EngineBook,
    EngineSnapshot,
    EngineTally,
)

_log = logging.getLogger("penstock.model")

# What records of one message hold together: a character takes twelve bytes of it at most.
MOST_TOGETHER = 256 << 10
# The progress of a load is told no more often.
_READING_S = 0.1


class Link(Protocol):
    """Where the server listens."""

    def send(self, kind: Kind, number: int = 0, note: Any = ...) -> None:
        """Tell the server something; OSError where there is none."""


class RecordQueue:
    """Records that wait for the server: so many, of so many bytes."""

    def __init__(self, most: int = MOST_RECORDS, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._waiting: list[CallRecord] = []
        self._size = 0
        self._lost = 0

    def put(self, record: CallRecord) -> bool:
        """Keep one; False if there is no room for it."""
        size = record.size
        with self._lock:
            if len(self._waiting) >= self._most or self._size + size > self._most_bytes:
                self._lost += 1
                return False
            self._waiting.append(record)
            self._size += size
        return True

    def lose(self, count: int) -> None:
        """So many cannot be told."""
        with self._lock:
            self._lost += count

    def take(self) -> tuple[Sequence[CallRecord], int]:
        """All that wait, and how many were lost since the last time."""
        with self._lock:
            records, self._waiting, self._size = self._waiting, [], 0
            lost, self._lost = self._lost, 0
        return records, lost

    def __repr__(self) -> str:
        return f"<RecordQueue {len(self._waiting)} of {self._most}, {self._lost} lost>"


class RemoteCalls:
    """The record of calls of the server, which wants texts or does not."""

    def __init__(self, records: RecordQueue, content: bool, news: Callable[[], None]) -> None:
        self._records = records
        self._content = content
        self._news = news

    @property
    def content(self) -> bool:
        """Whether texts are recorded too."""
        return self._content

    def append(self, record: CallRecord) -> bool:
        """Take one; False if there is no room for it. Never waits and never raises."""
        taken = self._records.put(record)
        self._news()
        return taken

    def lost(self, count: int) -> None:
        """So many records did not get as far as here."""
        self._records.lose(count)
        self._news()


class RemoteEngines(EngineBook):
    """The engines of the server: one of them is this process's own."""

    def __init__(self, reporter: "Reporter") -> None:
        super().__init__()
        self._reporter = reporter

    def add(self, engine: Engine) -> None:
        """The engine came: the server knows of it when this returns."""
        super().add(engine)
        if isinstance(engine, EngineTally):
            self._reporter.begin(engine)

    def remove(self, engine: Engine) -> None:
        """The engine is gone, and with it its series: what it did last is told before."""
        super().remove(engine)
        self._reporter.end(engine)


class Reporter:
    """Tells the server, from a thread of its own that there is once there is an engine.

    `content` says whether the server keeps the texts of calls, None that it keeps no calls.
    """

    def __init__(
        self, link: Link, content: bool | None, records: RecordQueue | None = None
    ) -> None:
        self._link = link
        self._content = bool(content)
        self._records = records or RecordQueue()
        self._news = threading.Event()
        self._pace = Pace()
        # Held while something is told, never by whoever has news.
        self._telling = threading.Lock()
        self._engine: EngineTally | None = None
        self._last: EngineSnapshot | None = None
        self._thread = threading.Thread(target=self._run, name="penstock-reports", daemon=True)
        self.engines = RemoteEngines(self)
        recorded = content is not None
        self.calls = RemoteCalls(self._records, self._content, self._news.set) if recorded else None

    def begin(self, engine: EngineTally) -> None:
        """Tell of this engine from now on."""
        engine.on_end = self._news.set
        with self._telling:
            self._engine, self._last = engine, None
        self.look(time.monotonic())
        if self._thread.ident is None:
            self._thread.start()

    def end(self, engine: Engine) -> None:
        """Tell of this engine no more, and all that waits before."""
        with self._telling:
            if engine is self._engine:
                self._engine = None
                self._tell_calls()
                self._link.send(Kind.ENGINE, 0, {"gone": True})

    def look(self, now: float) -> None:
        """Tell what is new, as far as it is time for it. OSError where there is no server."""
        with self._telling:
            self._tell_calls()
            if self._engine is not None:
                self._tell_of(self._engine.snapshot(), now)

    def _run(self) -> None:
        while True:
            news = self._news.wait(self._pace.pause_s)
            if news:
                # One message for many that end together.
                time.sleep(SOON_S)
                self._news.clear()
            self._pace.waited(news)
            try:
                self.look(time.monotonic())
            except OSError:
                return
            except Exception:
                _log.exception("what the engine has done could not be told")

    def _tell_of(self, engine: EngineSnapshot, now: float) -> None:
        idle = not engine.state.running and not engine.state.waiting
        if engine == self._last or not self._pace.is_due(now, idle):
            return
        self._link.send(Kind.ENGINE, 0, engine_note(engine))
        self._last = engine
        self._pace.told(now, idle)

    # -- records -----------------------------------------------------------------------------------

    def _tell_calls(self) -> None:
        records, lost = self._records.take()
        for part in parts(records):
            lost += self._send(part)
        if lost:
            self._link.send(Kind.RECORDS, 0, {"records": [], "lost": lost})

    def _send(self, records: Sequence[CallRecord]) -> int:
        """How many of these could not be told: what is too long for a message, is lost alone."""
        try:
            notes = [record_note(record, self._content) for record in records]
            self._link.send(Kind.RECORDS, 0, {"records": notes, "lost": 0})
        except OSError:
            raise
        except Exception:
            if len(records) == 1:
                return 1
            return sum(self._send((record,)) for record in records)
        return 0


def parts(records: Sequence[CallRecord]) -> Sequence[Sequence[CallRecord]]:
    """Records in messages: each holds MOST_TOGETHER at most, or one record."""
    found: list[list[CallRecord]] = []
    room = 0
    for record in records:
        if record.size > room:
            found.append([])
            room = MOST_TOGETHER
        found[-1].append(record)
        room -= record.size
    return found


class Reading:
    """Tells the server how far the weights are read, a few times a second."""

    def __init__(self, link: Link, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = link
        self._clock = clock
        self._told = float("-inf")

    def __call__(self, model: str, done: int, total: int) -> None:  # noqa: ARG002 - it knows whose
        """So many bytes of so many are read."""
        now = self._clock()
        if done < total and now - self._told < _READING_S:
            return
        self._told = now
        self._link.send(Kind.READING, 0, {"done": done, "total": total})
