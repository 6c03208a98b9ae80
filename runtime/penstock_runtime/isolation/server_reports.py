"""What the process of a language model reports: what its engine has done, its calls that are over,
and how far its weights are read. All of it is told on as if it came from within the server.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import InstanceDied
from penstock_runtime.isolation.call_notes import record_of
from penstock_runtime.isolation.engine_notes import MOST_REASONS, engine_of
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.tasks import LostTask
from penstock_runtime.isolation.values import count_of, list_of
from penstock_runtime.llm.calls import MOST_RECORDS, CallRecord
from penstock_runtime.observability.engine_metrics import EngineBook, EngineSnapshot


class ToldEngine:
    """The engine of one instance, as its processes tell of it one after the other; its counters go
    on where the last process left them. It has series while there is a process that tells of it.
    """

    def __init__(self, source: ModelSource, name: str) -> None:
        version = str(source.version)
        self.labels = {"model_name": source.config.name, "version": version, "engine": name}
        self._book = source.services.engines if source.services is not None else EngineBook()
        self._lock = threading.Lock()
        self._lives = 0
        self._told = False
        self._before: EngineSnapshot | None = None
        self._now: EngineSnapshot | None = None

    def begin(self) -> int:
        """Another process begins; its number. Nothing that the last one says is heard any more."""
        with self._lock:
            self._hide()
            self._lives += 1
            return self._lives

    def tell(self, life: int, engine: EngineSnapshot) -> None:
        """What the engine of this process has done until now."""
        with self._lock:
            if life != self._lives:
                return
            self._now = engine
            if not self._told:
                self._told = True
                self._book.add(self)

    def hide(self, life: int) -> None:
        """The engine of this process is gone."""
        with self._lock:
            if life == self._lives:
                self._hide()

    def end(self, life: int) -> None:
        """This process is gone, and what still comes from it is late."""
        with self._lock:
            if life == self._lives:
                self._hide()
                self._lives += 1

    def _hide(self) -> None:
        if self._told:
            self._told = False
            self._book.remove(self)
            joined = self._joined()
            at_rest = replace(joined.state, running=0, waiting=0, cache_usage=0.0)
            self._before, self._now = replace(joined, state=at_rest), None

    def snapshot(self) -> EngineSnapshot:
        """What all its processes have done."""
        with self._lock:
            return self._joined()

    def _joined(self) -> EngineSnapshot:
        before, now = self._before, self._now
        if before is None or now is None:
            found = now or before
            assert found is not None, "nobody asks before something was told"
            return found
        return after(before, now)

    def __repr__(self) -> str:
        return f"<ToldEngine {self.labels['engine']}, {'told' if self._told else 'not told'}>"


def after(before: EngineSnapshot, now: EngineSnapshot) -> EngineSnapshot:
    """What was done `before` and what was done since, together; how it is, is how it is now."""
    reasons = {name: before.reasons.get(name, 0) + n for name, n in now.reasons.items()}
    # Each is a series, and a process may call them what it likes.
    room = MOST_REASONS - len(reasons)
    rest = [item for item in before.reasons.items() if item[0] not in reasons][:room]
    return replace(
        now,
        counts={name: before.counts[name] + count for name, count in now.counts.items()},
        reasons={**reasons, **dict(rest)},
        histograms={n: before.histograms[n].merge(told) for n, told in now.histograms.items()},
        state=replace(
            now.state,
            prefix_queries=before.state.prefix_queries + now.state.prefix_queries,
            prefix_hits=before.state.prefix_hits + now.state.prefix_hits,
            preemptions=before.state.preemptions + now.state.preemptions,
        ),
    )


class ServerReports:
    """What one process reports of the engine of its instance."""

    def __init__(self, life: Life, source: ModelSource, engine: ToldEngine) -> None:
        self._life = life
        self._model, self._version = source.config.name, str(source.version)
        self._services = source.services
        self._engine = engine
        self._number = engine.begin()
        self._lock = threading.Lock()
        self._read: tuple[int, int] | None = None
        self._generates = False

    def handle(self, frame: Frame) -> bool:
        """Do what a frame says; False if it reports nothing."""
        if frame.kind is Kind.ENGINE:
            self._tell_of_engine(frame)
        elif frame.kind is Kind.RECORDS:
            self._record(frame)
        elif frame.kind is Kind.READING:
            self._show(frame)
        else:
            return False
        return True

    def close(self) -> None:
        """The process is gone, and its series with it."""
        self._engine.end(self._number)

    def record_lost(self, lost: Sequence[LostTask], error: InstanceDied) -> None:
        """It had these in hand: what came of them nobody else records."""
        calls = self._services.calls if self._services is not None else None
        if calls is None or not self._generates:
            return
        now = time.time_ns()
        for task in lost:
            calls.append(
                CallRecord(
                    task.came_ns,
                    self._model,
                    self._version,
                    task.id,
                    finish_reason="abort",
                    status=error.status.value,
                    error=error.message,
                    total_ms=max(now - task.came_ns, 0) / 1e6,
                )
            )

    def _tell_of_engine(self, frame: Frame) -> None:
        if frame.note.get("gone"):
            self._engine.hide(self._number)
        else:
            self._engine.tell(self._number, engine_of(frame.note, self._engine.labels))
            self._generates = True

    def _record(self, frame: Frame) -> None:
        calls = self._services.calls if self._services is not None else None
        if calls is None:
            raise BrokenProtocol("calls are recorded, and nobody wants to know of them")
        for note in list_of(frame.note.get("records"), MOST_RECORDS):
            calls.append(record_of(note, self._model, self._version, calls.content))
        calls.lost(count_of(frame.note.get("lost")))

    def _show(self, frame: Frame) -> None:
        """Have the last that was said shown: whoever does so may be slow."""
        done, total = count_of(frame.note.get("done")), count_of(frame.note.get("total"))
        with self._lock:
            waits, self._read = self._read is not None, (min(done, total), total)
        if not waits:
            self._life.post(self._show_last)

    def _show_last(self) -> None:
        with self._lock:
            told, self._read = self._read, None
        reading = self._services.reading if self._services is not None else None
        if reading is not None and told is not None:
            reading(self._model, *told)
