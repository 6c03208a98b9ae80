"""Several connections of the load generator: how calls are spread, and what losses cost."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import repeat

import pytest
from tests.http2.scripted_server import Peer, scripted
from tests.server.bench_peer import BLOCK, MS, Bench, S, bench

from penstock.bench import http2_carrier
from penstock.bench.carrier import NOW
from penstock.bench.http2_carrier import _UNLIMITED, Http2Carrier, dialler
from penstock.bench.http2_link import Link, Work
from penstock.bench.loops import LoadRun, Plan
from penstock.bench.meter import Meter
from penstock.bench.sample import Level
from penstock.bench.sockets import endpoints_of
from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status


class Door:
    """Where connections are opened: `refused` or held up while not `free`. `opened` has them."""

    def __init__(self, meter: Meter) -> None:
        self.opened: list[Bench] = []
        self.refused = False
        self.free = threading.Event()
        self.free.set()
        self.asked = 0
        self._meter = meter
        self._contexts = ExitStack()

    def dial(self, _: int) -> Link:
        """Open one more."""
        self.asked += 1
        if self.refused:
            raise InferenceError(Status.UNAVAILABLE, "failed to connect")
        assert self.free.wait(20)
        made = self._contexts.enter_context(bench())
        made.meter = made.link._meter = self._meter
        self.opened.append(made)
        return made.link

    def close(self) -> None:
        """Close all of them."""
        self._contexts.close()


@contextmanager
def carrier_of(connections: int) -> Iterator[tuple[Http2Carrier, Door]]:
    """A carrier over links that the test answers."""
    meter = Meter()
    meter.open(0)
    door = Door(meter)
    carrier = Http2Carrier(door.dial, connections, meter)
    try:
        yield carrier, door
    finally:
        carrier.close()
        door.close()


def poll_until(carrier: Http2Carrier, condition: Callable[[], bool]) -> None:
    """Poll as a loop does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        carrier.poll(time.monotonic_ns() + MS)


def in_flight_of(opened: Sequence[Bench]) -> list[int]:
    """Calls in flight of each connection."""
    return [each.link.in_flight for each in opened]


def test_calls_are_spread_evenly_over_the_connections() -> None:
    """The fullest never has more than one call above the emptiest."""
    with carrier_of(3) as (carrier, door):
        opened = door.opened
        carrier.launch([NOW] * 10)
        assert sorted(in_flight_of(opened)) == [3, 3, 4]

        carrier.poll(0)
        opened[0].peer.read()
        for number in list(opened[0].peer.streams):
            opened[0].peer.answer(number)
        opened[0].link.read()
        carrier.launch([NOW] * 2)
        carrier.launch([NOW])

        assert max(in_flight_of(opened)) - min(in_flight_of(opened)) <= 1
        assert carrier.in_flight == sum(in_flight_of(opened))


def test_a_lost_connection_is_opened_anew() -> None:
    """Its place is taken by the next, and the others never noticed."""
    with carrier_of(2) as (carrier, door):
        carrier.launch([NOW, NOW])
        room = carrier.room
        door.opened[0].peer.sock.close()
        poll_until(carrier, lambda: carrier.room > room)

        assert len(door.opened) == 3
        assert carrier.in_flight == 1
        carrier.launch([NOW])
        assert in_flight_of(door.opened[1:]) == [1, 1]


def test_a_connection_that_is_long_in_coming_holds_up_no_other() -> None:
    """Calls go on, on those that are there."""
    with carrier_of(2) as (carrier, door):
        door.free.clear()
        lost, other = door.opened
        lost.peer.sock.close()
        poll_until(carrier, lambda: door.asked == 3)

        for number in range(1, 20, 2):
            carrier.launch([NOW])
            carrier.poll(0)
            other.peer.read()
            other.peer.answer(number)
            poll_until(carrier, lambda: not carrier.in_flight)

        assert carrier.meter.completed == 10
        assert carrier.meter.errors == {}
        door.free.set()
        poll_until(carrier, lambda: len(door.opened) == 3)


def test_calls_wait_a_moment_for_the_only_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that goes away in peace, and is there, costs no call."""
    monkeypatch.setattr(http2_carrier, "_PATIENCE", 60 * S)
    with carrier_of(1) as (carrier, door):
        door.free.clear()
        door.opened[0].peer.core.shutdown()
        door.opened[0].peer.write()
        poll_until(carrier, lambda: door.asked == 2)
        meanwhile = carrier.room
        door.free.set()
        poll_until(carrier, lambda: carrier.room > 0)
        carrier.launch([NOW])

        assert meanwhile == 0
        assert in_flight_of(door.opened) == [0, 1]
        assert carrier.meter.errors == {}


def test_calls_do_not_wait_longer_than_that() -> None:
    """A server that takes connections and says nothing is one that is not there."""
    with carrier_of(1) as (carrier, door):
        door.free.clear()
        door.opened[0].peer.sock.close()
        poll_until(carrier, lambda: door.asked == 2)
        poll_until(carrier, lambda: carrier.room > 0)
        carrier.launch([NOW] * 3)
        door.free.set()
        poll_until(carrier, lambda: len(door.opened) == 2)

        assert carrier.meter.errors["UNAVAILABLE"].count == 3


def test_a_connection_that_comes_after_the_end_is_closed() -> None:
    """Whether it came before anyone looked, or later."""
    with carrier_of(1) as (carrier, door):
        door.free.clear()
        door.opened[0].peer.sock.close()
        poll_until(carrier, lambda: door.asked == 2)

        carrier.close()
        door.free.set()
        for thread in threading.enumerate():
            if thread.name == "penstock-bench-redial":
                thread.join(10)

        assert [each.link.open for each in door.opened] == [False, False]


def test_without_any_connection_calls_fail_and_the_loop_goes_on() -> None:
    """Each is UNAVAILABLE; a connection is tried again later."""
    with carrier_of(2) as (carrier, door):
        door.refused = True
        for each in door.opened:
            each.peer.sock.close()
        poll_until(carrier, lambda: carrier.room == _UNLIMITED)

        carrier.launch([NOW] * 5)

        assert carrier.meter.errors["UNAVAILABLE"].count == 5
        assert carrier.in_flight == 0
        door.refused = False
        poll_until(carrier, lambda: 0 < carrier.room < _UNLIMITED)


def test_abandoned_calls_fail() -> None:
    """At the end of a run nothing is in flight."""
    with carrier_of(2) as (carrier, _):
        carrier.launch([NOW] * 5)
        carrier.abandon()

        assert carrier.in_flight == 0
        assert carrier.meter.errors["DEADLINE_EXCEEDED"].count == 5


def test_a_server_that_is_gone_is_not_charged_to_another() -> None:
    """One of two is lost in a run and its address is mute from then on: what was due is answered
    by the other, at once.
    """
    go = threading.Event()

    def healthy(peer: Peer) -> None:
        peer.greet()
        peer.serve(b"answer")

    def die(peer: Peer) -> None:
        peer.greet()
        time.sleep(0.4)

    def mute(_: Peer) -> None:
        assert go.wait(20)

    with scripted(healthy) as good, scripted(die, mute) as bad:
        endpoints = endpoints_of(f"{good.address},{bad.address}")
        meter, work = Meter(), Work(repeat(BLOCK), repeat(b"ask"), 10.0)
        carrier = Http2Carrier(dialler(endpoints, None, work, meter, 10.0), 2, meter)
        sample = LoadRun(carrier, Level(rate=200), Plan(1.5, 0.2, timeout_s=0.5)).run()
        carrier.close()
        go.set()

    assert sample.latencies.count > 200
    assert sample.latencies.most < 3e9
    assert sample.failures < 50
