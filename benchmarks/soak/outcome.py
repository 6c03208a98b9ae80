"""What a soak found: the table, the figures worth keeping, and whether it failed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import Finding
from benchmarks.soak.tally import Tally
from benchmarks.soak.verdict import Memory, Sample, memory, traces

from penstock.bench.histogram import Histogram

_ALARMS = ("Traceback", "never retrieved", "was never awaited", "a call's task failed")
_NOT_OURS = "ExecuteBatchError"
"""What grpcio logs of streams that were left."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`before` and `after` are the server without load, `samples` those in between; `executed` is
    how often the server says it ran the model whose calls are never cancelled; `lag_s` is how late
    its loop was at the worst.
    """

    before: Sample
    samples: Sequence[Sample]
    after: Sample
    tally: Tally
    executed: int
    client_cpu_s: float
    lag_s: float
    alive: bool

    @property
    def memory(self) -> Memory:
        """The verdict on memory."""
        return memory([(one.at_s, one.rss_mb) for one in self.samples])

    def problems(self, log: str = "") -> list[str]:
        """Why it failed; none if it did not."""
        found = list(self.tally.texts)
        wrong = self.tally.wrong.total()
        if wrong > len(found):
            found.append(f"{wrong} calls went wrong, these were the first")
        if not self.alive:
            found.append("the server or a process of clients ended before its time")
        found += traces(self.before, self.after)
        if self.executed != self.tally.executed:
            found.append(f"{self.executed} executions, {self.tally.executed} answers of one model")
        if self.memory.flat is False:
            found.append(f"resident memory {self.memory}")
        ours = (line for line in log.splitlines() if _NOT_OURS not in line)
        alarms = [line for line in ours if any(map(line.__contains__, _ALARMS))]
        found += [f"in the log: {line[:300]}" for line in alarms[:5]]
        return found

    def finding(self, name: str, problems: Sequence[str], log: str = "") -> Finding:
        """The table of figures, and the row of the record."""
        tally, last = self.tally, self.samples[-1]
        p50, p99 = self._probes()
        rows = [
            ("minutes", f"{last.at_s / 60:.1f}"),
            ("calls", f"{tally.calls} ({tally.ended.total()} ended on purpose)"),
            ("wrong or missing answers", f"{tally.wrong.total()}"),
            ("probe of a neighbour: calls, p50, p99", f"{len(tally.probes)}, {p50}, {p99}"),
            ("lag of the server's loop at the worst", f"{self.lag_s * 1e3:.0f} ms"),
            ("executions of a model, its answers", f"{self.executed}, {tally.executed}"),
            ("resident memory before, last, after", self._three("rss_mb", "MB")),
            ("resident memory after the warm-up", f"{self.memory}"),
            ("descriptors before, last, after", self._three("descriptors")),
            ("threads before, last, after", self._three("threads")),
            ("tasks before, last, after", self._three("tasks")),
            ("connections before, last, after", self._three("connections")),
            ("streams before, last, after", self._three("streams")),
            ("calls in flight before, last, after", self._three("inflight")),
            ("bytes in flight before, last, after", self._three("inflight_bytes")),
            ("CPU of the server, of the clients", self._cpu()),
            ("lines in the server's log", f"{len(log.splitlines())}"),
            ("verdict", "clean" if not problems else f"{len(problems)} problems"),
        ]
        return Finding(name, ("", "found"), rows, self._summary(p99, problems))

    def _summary(self, p99: str, problems: Sequence[str]) -> str:
        tally = self.tally
        return (
            f"{self.samples[-1].at_s / 60:.0f} min, {tally.calls} calls of which"
            f" {tally.ended.total()} cut or cancelled: {tally.wrong.total()} wrong or missing;"
            f" neighbour's p99 {p99}; RSS {self.memory} ({self.before.rss_mb:.0f} MB before,"
            f" {self.after.rss_mb:.0f} MB after); left: {self.after.streams} streams,"
            f" {self.after.inflight} calls, {self.after.connections} connections,"
            f" descriptors {self.before.descriptors} to {self.after.descriptors}, threads"
            f" {self.before.threads} to {self.after.threads}, tasks {self.before.tasks} to"
            f" {self.after.tasks}; " + ("clean" if not problems else f"{len(problems)} PROBLEMS")
        )

    def _three(self, name: str, unit: str = "") -> str:
        values = (getattr(one, name) for one in (self.before, self.samples[-1], self.after))
        return ", ".join(f"{value:.0f} {unit}".strip() for value in values)

    def _cpu(self) -> str:
        took = max(self.samples[-1].at_s, 1e-9)
        served = self.samples[-1].cpu_s - self.before.cpu_s
        return f"{served / took:.2f}, {self.client_cpu_s / took:.2f} cores"

    def _probes(self) -> tuple[str, str]:
        histogram = Histogram()
        histogram.add_all(self.tally.probes)
        p50, p99 = histogram.percentiles((0.5, 0.99))
        return f"{p50 / 1e6:.1f} ms", f"{p99 / 1e6:.1f} ms"
