"""A carrier whose server, and whose clock, are a function."""

import heapq
from collections.abc import Callable, Sequence

from penstock.bench.carrier import NOW
from penstock.bench.loops import Clocks, LoadRun, Plan
from penstock.bench.meter import Meter
from penstock.bench.sample import Level, Sample

MS = 1_000_000
S = 1_000_000_000
TURN = 1000
"""ns that every turn of a loop takes."""

Service = Callable[[int], int | None]
"""When a call that was sent at this time is answered; None: it is refused at once."""


class FakeCarrier:
    """Calls that end when `service` says so, on a clock that only moves in `poll`.

    `sent` has the times at which calls were launched, `most` how many were in flight at once.
    """

    def __init__(self, service: Service, room: int = 1 << 30) -> None:
        self.meter = Meter()
        self.now = 0
        self.sent: list[int] = []
        self.most = 0
        self.abandoned = 0
        self._service = service
        self._room = room
        self._ends: list[tuple[int, int, bool]] = []

    def clock(self) -> int:
        """The time, ns."""
        return self.now

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return len(self._ends)

    @property
    def room(self) -> int:
        """How many more calls may begin."""
        return self._room - len(self._ends)

    def launch(self, dues: Sequence[int]) -> None:
        """Send at once."""
        assert 0 < len(dues) <= self.room
        if dues[0] != NOW:
            self.meter.sent(dues, self.now)
        for due in dues:
            self.sent.append(self.now)
            end = self._service(self.now)
            heapq.heappush(self._ends, (end or self.now, due or self.now, end is not None))
        self.most = max(self.most, len(self._ends))

    def poll(self, until: int) -> None:
        """Move the clock to the next end, but not beyond `until`; at least by a turn."""
        upcoming = min(until, self._ends[0][0]) if self._ends else until
        self.now = max(self.now + TURN, upcoming)
        while self._ends and self._ends[0][0] <= self.now:
            _, due, good = heapq.heappop(self._ends)
            if good:
                self.meter.answered(due, self.now)
            else:
                self.meter.failed(due, "UNAVAILABLE", "busy")

    def abandon(self) -> None:
        """Fail what is left."""
        for _, due, _ in self._ends:
            self.meter.failed(due, "DEADLINE_EXCEEDED", "late")
        self.abandoned, self._ends = len(self._ends), []

    def close(self) -> None:
        """Nothing to close."""


def measure(carrier: FakeCarrier, level: Level, plan: Plan) -> Sample:
    """A load on the fake, by the fake's clock; it uses a fifth of a core, its server a half."""
    clocks = Clocks(carrier.clock, lambda: carrier.now / S * 0.2, lambda: carrier.now / S * 0.5)
    return LoadRun(carrier, level, plan, clocks).run()
