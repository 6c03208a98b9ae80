"""The processes behind a local port, and the CPU time they have used (Linux; elsewhere unknown)."""

import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "::1")
_LISTEN = "0A"
_PROC = Path("/proc")
_CREDENTIALS = struct.Struct("iII")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _as_listed(address: str) -> str:
    """An address as the kernel's tables have it: words of four bytes in the machine's order."""
    packed = ip_address(address).packed
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


# Where whoever connects to this machine by one of _LOCAL may arrive.
_HERE = {_as_listed(each) for each in ("127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1")}


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server: the processes that listen, and those that they started."""

    pids: tuple[int, ...]

    def cpu_seconds(self) -> float | None:
        """User and system time of all of them so far; None if one is gone."""
        return self.cpu_clock()()

    def cpu_clock(self) -> Callable[[], float | None]:
        """What tells that time again and again, cheaply: the trees are looked at once, now."""
        pids = _trees(self.pids)

        def read() -> float | None:
            try:
                return sum(_cpu_ticks(pid) for pid in pids) / _TICKS
            except OSError:
                return None

        return read


def find_server(url: str) -> ServerProcess | None:
    """Whoever listens where `url` points, if that is this machine and may be seen.

    Several processes may, each on a socket of its own (SO_REUSEPORT).
    """
    if url.startswith("unix:"):
        return _find_behind(url.removeprefix("unix:").replace("///", "/", 1))
    host, _, port = url.rpartition(":")
    if host not in _LOCAL or not port.isdigit():
        return None
    names = {f"socket:[{inode}]" for inode in _listening(int(port))}
    pids = tuple(pid for pid in _pids() if names & _open_files(pid)) if names else ()
    return ServerProcess(pids) if pids else None


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
    return ServerProcess((_CREDENTIALS.unpack(credentials)[0],))


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a TCP port of this machine's own addresses."""
    for table in (_PROC / "net/tcp", _PROC / "net/tcp6"):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            address, _, local_port = fields[1].rpartition(":")
            if fields[3] == _LISTEN and int(local_port, 16) == port and address in _HERE:
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


def _trees(roots: Sequence[int]) -> list[int]:
    """Processes and their descendants, each once."""
    parents: dict[int, int] = {}
    for pid in _pids():
        try:
            parents[pid] = int(_stat(pid)[1])
        except OSError:
            continue
    found = list(roots)
    # The list grows while it is walked: children of children are looked at in their turn.
    for pid in found:
        found += [c for c, parent in parents.items() if parent == pid and c not in found]
    return found
