"""What /proc says of this process and of the machine's processors and memory.

Where there is no /proc (or a file of it is hidden) the families that need it are left out.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from penstock_runtime.observability.metrics import Family, Kind, Sample

PROC = Path("/proc")

# Two scrapers at once would otherwise each see the few milliseconds since the other.
CPU_INTERVAL_NS = 1_000_000_000


def build_family(version: str) -> Family:
    """The version that runs, as a label."""
    name = "penstock_build_info"
    return Family(name, "gauge", "The version of penstock", (Sample(1, {"version": version}),))


def process_families(proc: Path = PROC) -> list[Family]:
    """Memory, processor time, open files and start of this process, under the usual names."""
    return [*_stat_families(proc), *_file_families(proc)]


class MachineMetrics:
    """Processors and memory of the machine, under Triton's names.

    Utilisation is that between two scrapes, at least a second apart.
    """

    def __init__(self, proc: Path = PROC, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._proc = proc
        self._clock_ns = clock_ns
        self._read_ns = clock_ns()
        self._last = _cpu_times(proc)
        self._utilization = 0.0

    def families(self) -> list[Family]:
        """nv_cpu_utilization (0 to 1), nv_cpu_memory_total_bytes, nv_cpu_memory_used_bytes."""
        self._refresh()
        found = []
        if self._last is not None:
            help_ = "Part of the processors' time that was not idle, 0 to 1"
            found.append(_gauge("nv_cpu_utilization", help_, self._utilization))
        return [*found, *_memory_families(self._proc)]

    def _refresh(self) -> None:
        now = self._clock_ns()
        if now - self._read_ns < CPU_INTERVAL_NS:
            return
        times, last = _cpu_times(self._proc), self._last
        if times is None or last is None:
            return
        busy, total = times[0] - last[0], times[1] - last[1]
        self._utilization = min(max(busy / total, 0.0), 1.0) if total > 0 else 0.0
        self._last, self._read_ns = times, now


def _stat_families(proc: Path) -> Iterator[Family]:
    stat = _read(proc / "self" / "stat")
    if not stat:
        return
    # The command's name stands in brackets and may hold anything, brackets and blanks included.
    fields = stat[stat.rindex(")") + 2 :].split()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    seconds = (int(fields[11]) + int(fields[12])) / tick
    yield _one("process_cpu_seconds_total", "counter", "User and system time in seconds", seconds)
    yield _gauge("process_virtual_memory_bytes", "Virtual memory in bytes", int(fields[20]))
    yield _gauge(
        "process_resident_memory_bytes", "Resident memory in bytes", int(fields[21]) * page
    )
    yield _gauge("process_threads", "Threads of the process", int(fields[17]))
    boot = _boot_seconds(proc)
    if boot:
        help_ = "Start of the process in seconds since the epoch"
        yield _gauge("process_start_time_seconds", help_, boot + int(fields[19]) / tick)


def _file_families(proc: Path) -> Iterator[Family]:
    try:
        # One of them is the descriptor of the listing itself.
        opened = len(os.listdir(proc / "self" / "fd")) - 1
    except OSError:
        return
    yield _gauge("process_open_fds", "Open file descriptors", opened)
    for line in _read(proc / "self" / "limits").splitlines():
        if line.startswith("Max open files"):
            limit = line.split()[3]
            value = float("inf") if limit == "unlimited" else int(limit)
            yield _gauge("process_max_fds", "Most file descriptors that may be open", value)


def _memory_families(proc: Path) -> Iterator[Family]:
    lines = (line.split() for line in _read(proc / "meminfo").splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    total, available = kilobytes.get("MemTotal"), kilobytes.get("MemAvailable")
    if total is not None and available is not None:
        yield _gauge("nv_cpu_memory_total_bytes", "Memory of the machine in bytes", total * 1024)
        used = (total - available) * 1024
        yield _gauge("nv_cpu_memory_used_bytes", "Memory of the machine in use, in bytes", used)


def _cpu_times(proc: Path) -> tuple[int, int] | None:
    """Busy and total ticks of all processors since the boot."""
    first = _read(proc / "stat").partition("\n")[0].split()
    if not first or first[0] != "cpu":
        return None
    # user nice system idle iowait irq softirq steal; guest time is part of user time already.
    ticks = [int(word) for word in first[1:9]]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _boot_seconds(proc: Path) -> int:
    for line in _read(proc / "stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _gauge(name: str, help_: str, value: float) -> Family:
    return _one(name, "gauge", help_, value)


def _one(name: str, kind: Kind, help_: str, value: float) -> Family:
    return Family(name, kind, help_, (Sample(value),))
