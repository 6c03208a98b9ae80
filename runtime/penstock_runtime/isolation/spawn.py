"""The process of a model: how it is started, what it prints, how it is known to have ended and how
it is made to.
"""

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import IO

from penstock_runtime.backends.host import PASSIVE_OPENMP

_log = logging.getLogger("penstock.model")

# What is for the server and not for its models: its options, and how its supervisor finds it.
_OURS = "PENSTOCK_"
_OURS_EXACTLY = frozenset(
    {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"}
)
LONGEST_LINE = 4096
# Lines a second of one process that reach the log, and how many may come at once.
LINES_S, LINES_AT_ONCE = 100.0, 500.0


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a model's process: those of the server without what is the server's own,
    and the places where this process finds its modules.
    """
    kept = {
        key: value
        for key, value in environ.items()
        if not key.startswith(_OURS) and key not in _OURS_EXACTLY
    }
    for key, value in PASSIVE_OPENMP.items():
        kept.setdefault(key, value)
    places = [place or os.getcwd() for place in sys.path]
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
    return kept


class Budget:
    """How many lines may be told now; pure, the time is an argument."""

    def __init__(self) -> None:
        self._left = LINES_AT_ONCE
        self._at = 0.0
        self.dropped = 0

    def allows(self, now: float) -> bool:
        """Whether one more may be told; if not, it is counted."""
        self._left = min(self._left + (now - self._at) * LINES_S, LINES_AT_ONCE)
        self._at = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True

    def take_dropped(self) -> int:
        """How many were not told since this was asked last."""
        dropped, self.dropped = self.dropped, 0
        return dropped


class Spawned:
    """A child process in a session of its own; `link` is our end of its socket.

    `on_end` is called once, by a thread of its own, with how it ended.
    """

    def __init__(self, name: str, on_end: Callable[[str], None]) -> None:
        self._name = name
        self._on_end = on_end
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._reaped = False
        self.budget = Budget()
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # The kernel ends the child when the last writer of this pipe is gone, and that is us.
        life, self._life = os.pipe()
        try:
            self._process = self._start(theirs.fileno(), life)
        except BaseException:
            os.close(self._life)
            self.link.close()
            raise
        finally:
            theirs.close()
            os.close(life)
        self.pid = self._process.pid
        for target, what in ((self._wait, "wait"), (self._listen, "output")):
            thread = threading.Thread(target=target, name=f"{name}-{what}", daemon=True)
            thread.start()

    def _start(self, link: int, life: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-u", "-P", "-m", "penstock_runtime.isolation.child"]
        return subprocess.Popen(
            [*command, str(link), str(life)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(link, life),
            env=environment(),
            start_new_session=True,
        )

    def _wait(self) -> None:
        """Wait for its end, and end what it has started itself."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            # Its number, and that of its session, are still its own: it was not reaped yet.
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._process.wait()
            self._reaped = True
        os.close(self._life)
        self._gone.set()
        self._on_end(ending(code))

    def _listen(self) -> None:
        """What it prints goes to the log."""
        output = self._process.stdout
        assert output is not None
        with output:
            for line in _lines(output):
                self.tell(logging.INFO, line)

    def tell(self, level: int, text: str) -> None:
        """A line of the process for the log, unless there are too many."""
        if self.budget.allows(time.monotonic()):
            dropped = self.budget.take_dropped()
            if dropped:
                _log.warning("%s: %d lines more were not told", self._name, dropped)
            _log.log(level, "%s: %s", self._name, text)

    def set_patience(self, seconds: float) -> None:
        """Whoever receives from `link` gets a BlockingIOError after so long without a byte."""
        whole = int(seconds)
        value = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def signal(self, number: int) -> None:
        """Send it a signal, and all that it has started."""
        with self._lock:
            if not self._reaped:
                with suppress(OSError):
                    os.killpg(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, at the latest after so long."""
        return self._gone.wait(timeout_s)

    def __repr__(self) -> str:
        return f"<Spawned {self.pid}, {'gone' if self._gone.is_set() else 'there'}>"


def _lines(output: IO[bytes]) -> Iterator[str]:
    """Lines as they come; one that is too long is told in parts."""
    while raw := output.readline(LONGEST_LINE):
        text = raw.decode("utf-8", "backslashreplace").rstrip()
        if text:
            yield text


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"was ended by signal {-code}{name}"
