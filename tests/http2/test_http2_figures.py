"""A scrape comes from any thread, whatever the loop does meanwhile."""

import sys
import threading
from collections import Counter
from collections.abc import ItemsView
from typing import Any, cast

from penstock.transport.http2.arrivals import Arrivals
from penstock.transport.http2.figures import transport_families
from penstock.transport.http2.hub import Hub


class Busy(Counter[str]):
    """Counts to which the loop adds a name whenever someone goes through them one by one."""

    live = False

    def items(self) -> ItemsView[str, int]:  # type: ignore[override]
        if self.live:
            raise RuntimeError("dictionary changed size during iteration")
        return super().items()


class Link:
    """What a scrape reads of a connection's core."""

    def __init__(self, tallies: Counter[str]) -> None:
        self.streams: dict[int, Any] = {}
        self.tallies = tallies


class Connection:
    """What a scrape reads of a connection."""

    def __init__(self, tallies: Counter[str]) -> None:
        self.link = Link(tallies)
        self.bytes_in = self.bytes_out = 1


class FakeHub:
    """What a scrape reads of a hub."""

    def __init__(self, *tallies: Counter[str]) -> None:
        self.connections = {Connection(each) for each in tallies}
        self.tallies, self.counts = Counter({"pings": 1}), Counter({"connections": 3, "max_age": 1})
        self.past_in = self.past_out = 0
        self.arrivals = Arrivals(1)


def scraped(hub: FakeHub) -> dict[str, float]:
    """The defences, by name."""
    families = {family.name: family for family in transport_families(cast(Hub, hub))}
    samples = families["penstock_http2_defences_total"].samples
    return {sample.labels["name"]: sample.value for sample in samples}


def test_counts_are_copied_at_once_and_never_gone_through_while_they_change() -> None:
    """Of the hub, of its past connections, and of each that is open."""
    tallies = [Busy({"resets": 2}), Busy({"resets": 1, "pings": 1})]
    hub = FakeHub(*tallies)
    hub.tallies, hub.counts = Busy(hub.tallies), Busy(hub.counts)
    for each in (*tallies, hub.tallies, hub.counts):
        each.live = True

    found = scraped(hub)

    assert found == {"resets": 3, "pings": 2, "max_age": 1}


def test_a_scrape_bears_a_loop_that_counts_all_the_time() -> None:
    """New names of defences come up while their counts are read."""
    hub, stop = FakeHub(Counter(), Counter()), threading.Event()

    def count() -> None:
        while not stop.is_set():
            for connection in hub.connections:
                connection.link.tallies = Counter()
                for number in range(200):
                    connection.link.tallies[f"defence {number}"] += 1

    counting, interval = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    counting.start()
    try:
        for _ in range(1_000):
            scraped(hub)
    finally:
        stop.set()
        counting.join()
        sys.setswitchinterval(interval)
