"""The process behind a local port, and the CPU time it has used (Linux; elsewhere unknown)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "::1")
_LISTEN = "0A"
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A process and those that it started."""

    pid: int

    def cpu_seconds(self) -> float | None:
        """User and system time of the process and its children so far; None if it is gone."""
        try:
            return sum(_cpu_ticks(pid) for pid in (self.pid, *_children(self.pid))) / _TICKS
        except OSError:
            return None


def find_server(url: str) -> ServerProcess | None:
    """The process that listens where `url` points, if that is this machine and may be seen."""
    host, _, port = url.rpartition(":")
    if host not in _LOCAL or not port.isdigit():
        return None
    inodes = {f"socket:[{inode}]" for inode in _listening(int(port))}
    return next((ServerProcess(pid) for pid in _pids() if inodes & _open_files(pid)), None)


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a TCP port."""
    for table in (_PROC / "net/tcp", _PROC / "net/tcp6"):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            local_port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTEN and local_port == port:
                yield fields[9]


def _pids() -> list[int]:
    if not _PROC.is_dir():
        return []
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _open_files(pid: int) -> set[str]:
    found = set()
    try:
        for entry in (_PROC / str(pid) / "fd").iterdir():
            found.add(os.readlink(entry))
    except OSError:
        # Another user's process, or one that ended while it was looked at.
        return found
    return found


def _stat(pid: int) -> list[str]:
    # The command's name may hold blanks and brackets: fields are counted from behind it.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12])


def _children(parent: int) -> list[int]:
    children = []
    for pid in _pids():
        try:
            if int(_stat(pid)[1]) == parent:
                children.append(pid)
        except OSError:
            continue
    return children
