"""One of the supervisor's processes: started, watched, started again when it dies, and stopped."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum

from penstock.config import ServerOptions
from penstock.neighbours import Change
from penstock.worker_channel import (
    CHANGE,
    CHANGED,
    HEALTH,
    HURRY,
    LISTENING,
    LIVE,
    LOADED,
    METRICS,
    QUEUES,
    READY,
    SETTLED,
    Assignment,
    SupervisorEnd,
)

FIRST_DELAY_S, LAST_DELAY_S = 0.5, 30.0
CALM_S = 60.0
"""Who lived so long is started again as if it had never died."""

EXIT_OK, EXIT_FAILED = 0, 1
HEALTH_TIMEOUT_S, METRICS_TIMEOUT_S, HURRY_TIMEOUT_S = 0.8, 2.0, 5.0
CHANGE_TIMEOUT_S, START_TIMEOUT_S = 1.5, 3600.0

_log = logging.getLogger("penstock.supervisor")


class State(Enum):
    """What a process is doing."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPING = "stopping"
    ENDED = "ended"


def next_delay_s(last_s: float, lived_s: float) -> float:
    """How long to wait before the next start: twice as long as the last time, in bounds."""
    if last_s <= 0 or lived_s >= CALM_S:
        return FIRST_DELAY_S
    return min(2 * last_s, LAST_DELAY_S)


class WorkerProcess:
    """Keeps one process alive until it is told to stop. Lives on the supervisor's loop.

    `heard` is called whenever the process has told something, `changed` with what was changed in
    it; `changes` are all changes so far.
    """

    def __init__(
        self,
        number: int,
        options: ServerOptions,
        heard: Callable[[], None],
        changed: "Callable[[WorkerProcess, str], None] | None" = None,
        changes: Callable[[], Sequence[Change]] = list,
    ) -> None:
        self.number = number
        self.state = State.STARTING
        self.listened = False
        self.loaded = False
        self.restarts = 0
        self._options = options
        self._heard = heard
        self._changed = changed
        self._changes = changes
        self._telling: set[asyncio.Future[bytes]] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._end: SupervisorEnd | None = None
        self._listening = False
        self._stop = asyncio.Event()
        self._signal = signal.SIGTERM
        self._killed = False
        self._hurrying: asyncio.Future[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process is not None else None

    # -- its lives -------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start it, again and again, until it is told to stop; the exit code of the last one.

        Returns as well when it ends before it has ever been loaded.
        """
        delay_s = 0.0
        while not self._stop.is_set():
            began = time.monotonic()
            code = await self._live()
            if self._stop.is_set():
                return self._last_code(code)
            if not self.loaded:
                _log.error("process %d %s during its first start", self.number, how_it_ended(code))
                self.state = State.ENDED
                return exit_code(code) or EXIT_FAILED
            delay_s = next_delay_s(delay_s, time.monotonic() - began)
            await self._wait(delay_s, code)
        self.state = State.ENDED
        return EXIT_OK

    async def _wait(self, delay_s: float, code: int) -> None:
        self.restarts += 1
        self.state = State.WAITING
        _log.warning(
            "process %d %s, it starts again in %g s", self.number, how_it_ended(code), delay_s
        )
        try:
            await asyncio.wait_for(self._stop.wait(), delay_s)
        except TimeoutError:
            self.state = State.STARTING

    def _last_code(self, code: int) -> int:
        self.state = State.ENDED
        if self._killed:
            return EXIT_FAILED
        if not self._listening or code == -signal.SIGTERM:
            # Nothing was accepted, whatever ended it; a server itself is not ended by the signal.
            return EXIT_OK
        return exit_code(code)

    async def _live(self) -> int:
        """One life of the process, from its start to its end: how it ended."""
        self._listening = False
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = process = await self._spawn(theirs.fileno())
        except OSError as error:
            ours.close()
            _log.error("process %d cannot be started: %s", self.number, error.strerror)
            return EXIT_FAILED
        self._end = end = await SupervisorEnd.open(ours, self._news)
        end.assign(self._assignment())
        for change in self._changes():
            # Read once it is up, before it listens to anybody else.
            telling = asyncio.ensure_future(end.ask(CHANGE + change.encode(), START_TIMEOUT_S))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        if self._stop.is_set():
            self._send(signal.SIGTERM)
        code = await process.wait()
        self._process = self._end = None
        await end.close()
        return code

    async def _spawn(self, descriptor: int) -> asyncio.subprocess.Process:
        arguments = ("-P", "-m", "penstock.worker", str(self.number), str(descriptor))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(descriptor,),
            env=environment(self._options.processes),
            # A terminal's Ctrl-C is for the supervisor, which passes it on.
            process_group=0,
        )

    def _assignment(self) -> Assignment:
        return Assignment(self.number, not self.loaded, os.getpid(), tuple(sys.path), self._options)

    def _news(self, news: str) -> None:
        if news.startswith(CHANGED):
            if self._changed is not None:
                self._changed(self, news.removeprefix(CHANGED))
            return
        if news == LISTENING:
            self._listening = self.listened = True
        elif news == LOADED and self.state is State.STARTING:
            self.loaded = True
            self.state = State.RUNNING
            if self.restarts:
                _log.info("process %d (pid %s) serves again", self.number, self.pid)
        self._heard()

    # -- orders and questions --------------------------------------------------------------------

    def stop(self, number: signal.Signals) -> None:
        """Let it drain as the signal says, and start it no more."""
        self._stop.set()
        self.state = State.STOPPING
        # Before it listens nobody may be there to handle the signal: this one ends it quietly.
        self._send(number if self._listening else signal.SIGTERM)

    def hurry(self) -> None:
        """Once stopped: what is in flight is not waited for."""
        if self._end is not None and self._listening:
            self._hurrying = asyncio.ensure_future(self._end.ask(HURRY, HURRY_TIMEOUT_S))
        else:
            self._send(signal.SIGKILL)

    def kill(self) -> None:
        """Once stopped: it took too long."""
        if self._process is not None:
            _log.error("process %d does not end and is killed", self.number)
            self._killed = True
            self._send(signal.SIGKILL)

    def hang_up(self) -> None:
        """Let it look at its repository."""
        if self._listening:
            self._send(signal.SIGHUP)

    async def health(self) -> tuple[bool, bool]:
        """Whether it is live and ready; one that is not up yet (or again) is live."""
        if self.state is not State.RUNNING or self._end is None:
            return True, False
        words = (await self._end.ask(HEALTH, HEALTH_TIMEOUT_S)).decode().split()
        return LIVE in words, LIVE in words and READY in words

    async def scrape(self) -> bytes:
        """Its metrics; b"" if it has none, or not in time."""
        return await self._end.ask(METRICS, METRICS_TIMEOUT_S) if self._end is not None else b""

    async def queues(self) -> bytes:
        """Its queues as JSON; b"" if it does not say."""
        return await self._end.ask(QUEUES, METRICS_TIMEOUT_S) if self._end is not None else b""

    async def change(self, word: str) -> None:
        """Change these settings in it, if it is up."""
        if self._end is not None and self._listening:
            await self._end.ask(CHANGE + word, CHANGE_TIMEOUT_S)

    async def settle(self, number: str) -> None:
        """What it has told of under this number is known to all."""
        if self._end is not None:
            await self._end.ask(SETTLED + number, CHANGE_TIMEOUT_S)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.number} {self.state.value}, restarts={self.restarts}>"


def environment(processes: int) -> dict[str, str]:
    """Of a process that shares the machine with so many of its kind."""
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


def exit_code(code: int) -> int:
    """The exit code that a shell shows for what a process ended with."""
    return 128 - code if code < 0 else code


def how_it_ended(code: int) -> str:
    """In words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
