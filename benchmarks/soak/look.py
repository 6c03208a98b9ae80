"""Looks at a server from outside: its process, and what its metrics say."""

import os
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.verdict import Sample

TIMEOUT_S = 30.0
_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)$")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Lookout:
    """A running server and where its metrics are; `began` is when the load did (monotonic s),
    `lags_s` how late its loop was at the worst between any two scrapes.
    """

    pid: int
    metrics_url: str
    began: float
    lags_s: list[float] = field(default_factory=list)

    def sample(self, calls: int = 0, wrong: int = 0) -> Sample:
        """How it stands now; OSError if it is gone."""
        totals = sums(self.scrape())
        process = Path(f"/proc/{self.pid}")
        status = fields_of((process / "status").read_text())
        return Sample(
            at_s=time.monotonic() - self.began,
            rss_mb=int(status["VmRSS"].split()[0]) * 1024 / 1e6,
            descriptors=len(os.listdir(process / "fd")),
            threads=int(status["Threads"]),
            tasks=int(totals["penstock_event_loop_tasks"]),
            connections=int(totals["penstock_http2_connections"]),
            streams=int(totals["penstock_http2_streams"]),
            inflight=int(totals["penstock_inflight_calls"]),
            inflight_bytes=int(totals["penstock_inflight_bytes"]),
            pending=int(totals["nv_inference_pending_request_count"]),
            cpu_s=cpu_s((process / "stat").read_text()),
            calls=calls,
            wrong=wrong,
        )

    def scrape(self) -> str:
        """The page of metrics."""
        with urllib.request.urlopen(self.metrics_url, timeout=TIMEOUT_S) as page:
            text: str = page.read().decode()
        self.lags_s.append(sums(text)["penstock_event_loop_lag_max_seconds"])
        return text

    def executed(self, model: str) -> int:
        """How many requests a model answered, as the server counts."""
        return int(series(self.scrape(), "nv_inference_request_success", f'model="{model}"'))


def sums(page: str) -> Mapping[str, float]:
    """The sum of each metric over its labels; 0 for one that is not there."""
    found: dict[str, float] = defaultdict(float)
    for line in page.splitlines():
        if (match := _LINE.match(line)) is not None:
            found[match[1]] += float(match[3])
    return found


def series(page: str, name: str, label: str) -> float:
    """The sum of one metric over the series with this label."""
    lines = (line for line in page.splitlines() if line.startswith(name + "{") and label in line)
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def fields_of(status: str) -> dict[str, str]:
    """/proc/PID/status."""
    pairs = (line.partition(":") for line in status.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def cpu_s(stat: str) -> float:
    """User and system time of /proc/PID/stat, in seconds."""
    after_name = stat.rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS
