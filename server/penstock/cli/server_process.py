"""The process behind a local port, and the CPU time it has used (Linux; elsewhere unknown)."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "::1")
_LISTEN = "0A"
_PROC = Path("/proc")
_CREDENTIALS = struct.Struct("iII")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A process and those that it started."""

    pid: int

    def cpu_seconds(self) -> float | None:
        """User and system time of the process and its descendants so far; None if it is gone."""
        return self.cpu_clock()()

    def cpu_clock(self) -> Callable[[], float | None]:
        """What tells that time again and again, cheaply: the tree is looked at once, now."""
        pids = _tree(self.pid)

        def read() -> float | None:
            try:
                return sum(_cpu_ticks(pid) for pid in pids) / _TICKS
            except OSError:
                return None

        return read


def find_server(url: str) -> ServerProcess | None:
    """The process that listens where `url` points, if that is this machine and may be seen."""
    if url.startswith("unix:"):
        return _find_behind(url.removeprefix("unix:").replace("///", "/", 1))
    host, _, port = url.rpartition(":")
    if host not in _LOCAL or not port.isdigit():
        return None
    names = {f"socket:[{inode}]" for inode in _listening(int(port))}
    return next((ServerProcess(pid) for pid in _pids() if names & _open_files(pid)), None)


def _find_behind(path: str) -> ServerProcess | None:
    """The process that listens at a path, as the kernel tells whoever connects there."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return ServerProcess(_CREDENTIALS.unpack(credentials)[0])


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


def _tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for pid in _pids():
        try:
            parents[pid] = int(_stat(pid)[1])
        except OSError:
            continue
    found = [root]
    # The list grows while it is walked: children of children are looked at in their turn.
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
