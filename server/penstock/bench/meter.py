"""Counts what becomes of the calls of one load: which of them belong to the window, how long they
took, why they failed.
"""

from collections.abc import Sequence

from penstock.bench.histogram import Recorder
from penstock.bench.sample import Failures, Level, Sample

FOREVER = 1 << 62


class Meter:
    """A call belongs to the window if it was due, or in a closed loop sent, in [start, end).

    Throughput counts what was answered inside the window, whenever it was sent. All times are
    monotonic ns. `answered` and its like are called for every call and do little.
    """

    def __init__(self) -> None:
        self.start = FOREVER
        self.end = FOREVER
        self.completed = 0
        self.messages = 0
        self.latencies = Recorder()
        self.lateness = Recorder()
        self.first = Recorder()
        self.gaps = Recorder()
        self.errors: dict[str, Failures] = {}
        self.failed_since = 0
        self._latency = self.latencies.add

    def open(self, start: int, end: int = FOREVER) -> None:
        """Say which window it is; until then nothing belongs to it."""
        self.start = start
        self.end = end

    def close(self, now: int) -> None:
        """The last call has ended, and with it a window that had no end."""
        self.end = now

    def answered(self, due: int, now: int) -> None:
        """A unary call succeeded."""
        if due >= self.start:
            self._latency(now - due)
        if self.start <= now < self.end:
            self.completed += 1
            self.messages += 1

    def response(self, due: int, before: int, now: int) -> None:
        """A response of a stream came; `before` is when the one before it did, 0 for the first."""
        if due >= self.start:
            if before:
                self.gaps.add(now - before)
            else:
                self.first.add(now - due)
        if self.start <= now < self.end:
            self.messages += 1

    def ended(self, due: int, now: int) -> None:
        """A stream succeeded."""
        if due >= self.start:
            self._latency(now - due)
        if self.start <= now < self.end:
            self.completed += 1

    def failed(self, due: int, status: str, text: str) -> None:
        """A call ended with this status, or never got one."""
        self.failed_since += 1
        if due < self.start:
            return
        known = self.errors.get(status)
        if known is None:
            self.errors[status] = Failures(1, text)
        else:
            known.count += 1

    def sent(self, dues: Sequence[int], now: int) -> None:
        """These calls of an open loop were written."""
        if dues and dues[0] >= self.start:
            self.lateness.extend([now - due for due in dues])

    def take_failed(self) -> int:
        """How many calls failed since this was asked last."""
        failed, self.failed_since = self.failed_since, 0
        return failed

    def fold(self) -> None:
        """Bound the memory; called once for every turn of the loop."""
        self.latencies.fold()
        self.lateness.fold()
        self.first.fold()
        self.gaps.fold()

    def sample(
        self,
        level: Level,
        *,
        unsent: int = 0,
        waiting: tuple[int, int] = (0, 0),
        client_cpu_s: float = 0.0,
        server_cpu_s: float | None = None,
    ) -> Sample:
        """All of it, once the window has an end."""
        return Sample(
            level=level,
            elapsed_ns=self.end - self.start,
            completed=self.completed,
            messages=self.messages,
            latencies=self.latencies.histogram,
            lateness=self.lateness.histogram,
            first=self.first.histogram,
            gaps=self.gaps.histogram,
            errors=self.errors,
            unsent=unsent,
            waiting_before=waiting[0],
            waiting_after=waiting[1],
            client_cpu_s=client_cpu_s,
            server_cpu_s=server_cpu_s,
        )
