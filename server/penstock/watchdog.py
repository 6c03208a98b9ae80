"""Whether the event loop turns: its lag as a gauge, all stacks in the log when it stands still."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from penstock_runtime.observability.metrics import Family, Sample

_log = logging.getLogger("penstock.watchdog")

BEAT_S = 0.25
DEAD_AFTER_S = 10.0


class LoopWatch:
    """Beats on the loop, and a thread that looks at the beats. `on_beat` is called on the loop."""

    def __init__(self, stall_dump_s: float, on_beat: Callable[[], None] | None = None) -> None:
        self._stall_dump_s = stall_dump_s
        self._on_beat = on_beat
        self._beat = time.monotonic()
        self._lag_s = 0.0
        self._worst_s = 0.0
        self._stalls = 0
        self._told = 0.0
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on the loop that is to be watched."""
        self._beat = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        if self._stall_dump_s > 0:
            self._thread = threading.Thread(
                target=self._watch, args=(threading.get_ident(),), daemon=True
            )
            self._thread.name = "penstock-watchdog"
            self._thread.start()

    def stop(self) -> None:
        """End, on the loop."""
        self._ended.set()
        if self._task is not None:
            self._task.cancel()

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately; from any thread."""
        return time.monotonic() - self._beat < DEAD_AFTER_S

    async def _run(self) -> None:
        while True:
            due = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._beat = time.monotonic()
            self._lag_s = max(0.0, self._beat - due)
            self._worst_s = max(self._worst_s, self._lag_s)
            if self._on_beat is not None:
                self._on_beat()

    def _watch(self, loop_thread: int) -> None:
        while not self._ended.wait(self._stall_dump_s / 4):
            if self.stands_still(time.monotonic()):
                _log.error(
                    "the event loop stands still for more than %g s; stacks: %s",
                    self._stall_dump_s,
                    _stacks(loop_thread),
                )

    def stands_still(self, now: float) -> bool:
        """Whether there is a standstill to tell of: once for each, however long it lasts."""
        beat = self._beat
        if now - beat < self._stall_dump_s + BEAT_S or beat == self._told:
            return False
        self._told = beat
        self._stalls += 1
        return True

    def families(self) -> list[Family]:
        """Lag now, the worst since the last scrape, standstills, tasks; from any thread."""
        worst, self._worst_s = self._worst_s, self._lag_s
        tasks = 0 if self._loop is None else len(asyncio.all_tasks(self._loop))
        return [
            Family(
                "penstock_event_loop_lag_seconds",
                "gauge",
                "How late the event loop did what was due",
                (Sample(self._lag_s),),
            ),
            Family(
                "penstock_event_loop_lag_max_seconds",
                "gauge",
                "The worst lag since the last scrape",
                (Sample(worst),),
            ),
            Family(
                "penstock_event_loop_stalls_total",
                "counter",
                "Standstills of the event loop that were written to the log",
                (Sample(self._stalls),),
            ),
            Family(
                "penstock_event_loop_tasks",
                "gauge",
                "Tasks of the event loop",
                (Sample(tasks),),
            ),
        ]


def _stacks(first: int) -> str:
    """The stacks of all threads, that of the loop first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != first)
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
        for ident, frame in frames
    )
