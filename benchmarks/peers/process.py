"""A server under comparison: started on one core in a session of its own, and what all of its
processes together take. Linux.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_S = 10.0
_LOOK_S = 0.02


class PeerError(Exception):
    """Why a server cannot take part."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What starts a server; `environment` is added to ours."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs; its log is what it printed."""

    process: subprocess.Popen[bytes]
    log: Path

    def pids(self) -> list[int]:
        """Every process of its session."""
        return [pid for pid in _pids() if _session(pid) == self.process.pid]

    def resident_mb(self) -> float:
        """The resident memory of all of them in MB (10^6 bytes)."""
        return sum(_resident_kib(pid) for pid in self.pids()) * 1024 / 1e6

    def check(self) -> None:
        """PeerError with the end of its log if it has ended."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise PeerError(f"it ended with exit code {code}: {' / '.join(lines[-3:])[:400]}")


@contextlib.contextmanager
def started(launch: Launch, folder: Path, *cores: int) -> Iterator[Running]:
    """Run it in `folder`, on these cores, until the end of the block; then nothing of its session
    is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **launch.environment}
    with log.open("wb") as out, pinned(*cores):
        process = subprocess.Popen(
            launch.words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    running = Running(process, log)
    try:
        yield running
    finally:
        _stop(running)


def _stop(running: Running) -> None:
    running.process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(_STOP_S)
    finally:
        # Also when whoever waits here is interrupted a second time.
        _kill(running)


def _kill(running: Running) -> None:
    until = time.monotonic() + _STOP_S
    while (pids := running.pids()) and time.monotonic() < until:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.process.poll()
        time.sleep(_LOOK_S)
    running.process.wait(_STOP_S)


@contextlib.contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """What this thread starts inside the block runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes so far; one that is gone counts as 0."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def waited_seconds(pids: Sequence[int]) -> float:
    """How long the threads of these processes have been ready to run while others ran."""
    stats = (stat for pid in pids for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(_waited_ns(stat) for stat in stats) / 1e9


def _waited_ns(stat: Path) -> int:
    try:
        return int(stat.read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # Behind the name, which may hold anything, utime and stime are the 12th and 13th.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
