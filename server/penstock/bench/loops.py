"""The two load loops. Closed: so many calls in flight, each followed by the next once it is
answered. Open: calls are due by a schedule that does not wait for the server, and their latency
counts from when they were due, so that a server that stalls is charged with every call that it
kept from being sent (there is no coordinated omission).
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from penstock.bench.carrier import NOW, Carrier
from penstock.bench.meter import FOREVER
from penstock.bench.sample import Level, Sample
from penstock.bench.schedule import Schedule, arrivals

_NS = 1_000_000_000
_TICK = _NS // 20
_TOLD = _NS // 10
_BACKOFF = _NS // 100
_LEAST_GRACE = _NS // 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure and within which bounds; seconds, but for the counts.

    `requests` ends the window after so many calls instead of after `duration_s`. `max_in_flight`
    bounds an open loop. `timeout_s` is how long calls in flight are waited for at the end.
    """

    duration_s: float
    warmup_s: float = 1.0
    requests: int | None = None
    max_in_flight: int = 1000
    timeout_s: float = 30.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where times come from: monotonic ns, and seconds of CPU of this process and the server's."""

    now: Callable[[], int] = time.monotonic_ns
    client_cpu: Callable[[], float] = time.process_time
    server_cpu: Callable[[], float | None] = lambda: None


_CLOCKS = Clocks()


class LoadRun:
    """One load on one carrier: warm-up, window, and the wait for what is still in flight."""

    def __init__(
        self,
        carrier: Carrier,
        level: Level,
        plan: Plan,
        clocks: Clocks = _CLOCKS,
        told: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`told` hears ten times a second how many seconds have passed."""
        self._carrier, self._level, self._plan, self._clocks = carrier, level, plan, clocks
        self._told = told
        self._next_told = 0
        self._began = clocks.now()
        self._start = self._began + int(plan.warmup_s * _NS)
        self._meter = carrier.meter
        self._schedule: Schedule | None = None
        self._left = plan.requests or FOREVER
        self._in_window = False
        self._cpu: list[tuple[float, float | None]] = []
        self._waiting: list[int] = []

    def run(self) -> Sample:
        """Do it; calls that are not answered in time after the end fail."""
        if self._level.rate is None:
            return self._closed_loop(self._level.concurrency or 1)
        return self._open_loop(self._level.rate)

    def _closed_loop(self, wanted: int) -> Sample:
        carrier, clock, meter = self._carrier, self._clocks.now, self._meter
        held: deque[tuple[int, int]] = deque()
        holding = 0
        while (now := clock()) < meter.end and self._left:
            self._turn(now)
            # A server that refuses at once would otherwise be asked as fast as this process can.
            if failed := meter.take_failed():
                held.append((now + _BACKOFF, failed))
                holding += failed
            while held and held[0][0] <= now:
                holding -= held.popleft()[1]
            free = min(wanted - carrier.in_flight - holding, carrier.room, self._left)
            if free > 0:
                carrier.launch([NOW] * free)
                self._left -= free if self._in_window else 0
            carrier.poll(min(self._until(now), held[0][0] if held else FOREVER))
        self._stop()
        return self._finish(unsent=0)

    def _open_loop(self, rate: float) -> Sample:
        carrier, clock, meter = self._carrier, self._clocks.now, self._meter
        self._open_window(self._start)
        source = arrivals(self._level.arrivals, rate, self._plan.seed)
        schedule = self._schedule = Schedule(source, origin=self._began)
        while (now := clock()) < meter.end and self._left:
            self._turn(now)
            room = min(self._plan.max_in_flight - carrier.in_flight, carrier.room, self._left)
            dues = schedule.take(now, room)
            if dues:
                carrier.launch(dues)
                self._left -= len(dues) - bisect_left(dues, meter.start)
            until = self._until(now)
            carrier.poll(min(until, schedule.next_due) if room > len(dues) else until)
        self._stop()
        unsent = self._send_backlog(schedule) if meter.end < FOREVER else 0
        return self._finish(unsent)

    def _send_backlog(self, schedule: Schedule) -> int:
        """Send what was due inside the window, for a moment; how many calls were never sent.

        Without this the calls that a stall at the very end kept back would not be counted.
        """
        carrier, clock, end = self._carrier, self._clocks.now, self._meter.end
        grace = max(_LEAST_GRACE, (end - self._meter.start) // 10)
        give_up = clock() + min(grace, int(self._plan.timeout_s * _NS))
        while schedule.next_due < end and (now := clock()) < give_up:
            room = min(self._plan.max_in_flight - carrier.in_flight, carrier.room)
            if dues := schedule.take(end - 1, room):
                carrier.launch(dues)
            carrier.poll(min(give_up, now + _TICK))
            self._meter.fold()
        return schedule.skip(end)

    def _turn(self, now: int) -> None:
        """What is done once for every turn, whatever the number of calls in it."""
        self._meter.fold()
        if not self._in_window and now >= self._start:
            self._in_window = True
            if self._schedule is None:
                # What was launched before now was written before now, and is not in the window.
                self._open_window(now)
            self._look()
        if now >= self._next_told:
            self._next_told = now + _TOLD
            self._told((now - self._began) / _NS)

    def _open_window(self, start: int) -> None:
        plan = self._plan
        self._meter.open(start, FOREVER if plan.requests else start + int(plan.duration_s * _NS))

    def _until(self, now: int) -> int:
        """How long the loop may wait: the window begins and ends in time."""
        return min(now + _TICK, self._meter.end if self._in_window else self._start)

    def _look(self) -> None:
        self._cpu.append((self._clocks.client_cpu(), self._clocks.server_cpu()))
        self._waiting.append(self._count_waiting())

    def _count_waiting(self) -> int:
        """Calls that are due and not answered: those in flight, and about those not sent yet."""
        schedule, rate = self._schedule, self._level.rate
        if schedule is None or rate is None:
            return self._carrier.in_flight
        behind = max(self._clocks.now() - schedule.next_due, 0)
        return self._carrier.in_flight + int(behind / _NS * rate)

    def _stop(self) -> None:
        """The window ends here, unless it is as long as its calls take."""
        if not self._in_window:
            self._look()
        if self._meter.end < FOREVER:
            self._look()
        else:
            self._waiting.append(self._count_waiting())

    def _finish(self, unsent: int) -> Sample:
        carrier, clock = self._carrier, self._clocks.now
        give_up = clock() + int(self._plan.timeout_s * _NS)
        while carrier.in_flight and (now := clock()) < give_up:
            carrier.poll(min(give_up, now + _TICK))
            self._meter.fold()
        if self._meter.end == FOREVER:
            # Time and CPU end together, whatever became of the last call.
            self._meter.close(clock())
            self._look()
        carrier.abandon()
        (client, server), (client_end, server_end) = self._cpu
        spent = None if server is None or server_end is None else server_end - server
        return self._meter.sample(
            self._level,
            unsent=unsent,
            waiting=(self._waiting[0], self._waiting[1]),
            client_cpu_s=client_end - client,
            server_cpu_s=spent,
        )
