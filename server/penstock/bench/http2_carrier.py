"""Calls over HTTP/2 connections of our own: all that happens in one turn is read, answered by new
calls and written with one system call for each connection.
"""

import select
import time
from collections.abc import Sequence

from penstock.bench.http2_link import Link, Work
from penstock.bench.meter import Meter
from penstock.bench.redial import Dial, Redial
from penstock.bench.sockets import Secure, connect
from penstock.client.channel import TLS
from penstock.client.errors import InferenceError
from penstock.client.http2_targets import Endpoint
from penstock_runtime.errors import Status

_NS = 1_000_000_000
_RETRY = _NS // 5
_PATIENCE = _NS // 5
"""How long calls wait for a connection when there is none, before they fail."""
_LOOK = _NS // 1000
"""How often a connection that is being opened is looked at."""
_UNLIMITED = 1 << 30


def dialler(
    endpoints: Sequence[Endpoint], tls: TLS | None, work: Work, meter: Meter, timeout_s: float
) -> Dial:
    """What opens connection i, to the endpoints in turn, and waits until the server speaks.

    OSError or FailedPrecondition name a file of `tls` that is not what it should be.
    """
    secure = None if tls is None else Secure.of(tls)

    def dial(number: int) -> Link:
        endpoint = endpoints[number % len(endpoints)]
        link = Link(connect(endpoint, secure, timeout_s), work, meter)
        until = time.monotonic_ns() + int(timeout_s * _NS)
        while not link.ready:
            turn([link], [link.file], until)
            if not link.open or time.monotonic_ns() >= until:
                link.close()
                text = f"what listens at {endpoint} is no HTTP/2 server"
                raise InferenceError(Status.UNAVAILABLE, text)
        return link

    return dial


def turn(links: Sequence[Link], files: Sequence[int], until: int) -> None:
    """Write, wait until `until` (ns) at most, read. `files` are those of the links.

    `select` is what waits with a precision of microseconds, but for no more than 1024 files.
    """
    for link in links:
        link.flush()
    if not all(link.open for link in links):
        return
    writers = [link.file for link in links if link.unsent]
    wait = max(until - time.monotonic_ns(), 0) / _NS
    readable = select.select(files, writers, (), wait)[0]
    if len(links) == 1:
        if readable:
            links[0].read()
        return
    for link in links:
        if link.file in readable:
            link.read()


class Http2Carrier:
    """So many connections, opened by `dial` and opened anew when they are lost."""

    def __init__(self, dial: Dial, connections: int, meter: Meter) -> None:
        """InferenceError when one of the connections cannot be had."""
        self.meter = meter
        self._dial = dial
        self._places: list[Link | None] = []
        self._leaving: list[Link] = []
        self._redials: dict[int, Redial] = {}
        self._retry_at = 0
        self._patient_until = 0
        try:
            for number in range(connections):
                self._places.append(dial(number))
        except BaseException:
            self.close()
            raise
        finally:
            self._sort()

    def _sort(self) -> None:
        """Keep at hand which connections take calls, and which are waited for."""
        self._takers = [link for link in self._places if link is not None]
        self._links = self._takers + self._leaving
        self._files = [link.file for link in self._links]

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return sum([len(link.core.streams) for link in self._links])

    @property
    def room(self) -> int:
        """How many more calls may begin. Without a connection none, for a moment in which the next
        one may come; after that any number may, and fails.
        """
        if self._takers:
            return sum([link.room for link in self._takers])
        hopeful = self._redials and time.monotonic_ns() < self._patient_until
        return 0 if hopeful else _UNLIMITED

    def launch(self, dues: Sequence[int]) -> None:
        """Begin calls, each time on the connection that has the fewest."""
        links = self._takers
        if len(links) == 1:
            links[0].launch(dues)
            return
        counts = [len(link.core.streams) for link in links]
        level = (sum(counts) + len(dues)) // max(len(links), 1)
        at = 0
        while at < len(dues) and counts:
            lowest = min(counts)
            link = links[counts.index(lowest)]
            some = min(max(level - lowest, 1), len(dues) - at, link.room)
            if some > 0:
                link.launch(dues[at : at + some])
                at += some
            elif lowest == _UNLIMITED:
                break
            counts[counts.index(lowest)] = lowest + some if some > 0 else _UNLIMITED
        for due in dues[at:]:
            self.meter.failed(due or time.monotonic_ns(), "UNAVAILABLE", "no connection")

    def poll(self, until: int) -> None:
        """Write, wait, read; mend what is broken."""
        if self._redials:
            until = min(until, time.monotonic_ns() + _LOOK)
        elif not self._links:
            until = min(until, self._retry_at)
        if self._links:
            turn(self._links, self._files, until)
        else:
            time.sleep(max(until - time.monotonic_ns(), 0) / _NS)
        now = time.monotonic_ns()
        broken = len(self._takers) < len(self._places) or bool(self._leaving)
        for link in self._links:
            link.expire(now)
            broken = broken or link.leaving
        if broken:
            self._mend(now)

    def abandon(self) -> None:
        """End all calls in flight."""
        for link in self._links:
            link.abandon()
            link.flush()

    def close(self) -> None:
        """Close every connection, those that are still to come as well."""
        for redial in self._redials.values():
            redial.drop()
        for link in [*self._places, *self._leaving]:
            if link is not None:
                link.close()

    def _mend(self, now: int) -> None:
        """Replace connections that take no more calls; those that still have some may finish."""
        for number, link in enumerate(self._places):
            if link is not None and link.leaving:
                self._places[number] = None
                self._leaving.append(link)
        for link in [each for each in self._leaving if not (each.open and each.in_flight)]:
            self._leaving.remove(link)
            link.close()
        self._take_redialled(now)
        if now >= self._retry_at:
            self._redial()
        had_any = bool(self._takers)
        self._sort()
        if had_any and not self._takers:
            self._patient_until = now + _PATIENCE

    def _take_redialled(self, now: int) -> None:
        for number, redial in list(self._redials.items()):
            if redial.over:
                del self._redials[number]
                self._places[number] = redial.link
                if redial.link is None:
                    self._retry_at = now + _RETRY

    def _redial(self) -> None:
        for number, link in enumerate(self._places):
            if link is None and number not in self._redials:
                self._redials[number] = Redial(self._dial, number)
