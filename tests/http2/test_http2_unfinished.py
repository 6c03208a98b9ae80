"""Which messages come too slowly to be waited for, with times and bytes that are given."""

import gzip

import pytest
from tests.http2.core import prefixed

from penstock.transport.http2.limits import KIB, MIB
from penstock.transport.http2.messages import Assembler
from penstock.transport.http2.stream import Stream
from penstock.transport.http2.unfinished import Unfinished

SECOND_NS = 1_000_000_000
STALL_S = 30


class Peer:
    """A stream within a message of some size, and the watch on it."""

    def __init__(self, size: int, *, scarce: bool = False) -> None:
        self.scarce = scarce
        self.watch = Unfinished(STALL_S * SECOND_NS, KIB)
        self.stream = Stream(None, 1, None, 0)
        self.assembler = self.stream.receive_slowly(MIB, Assembler(1 << 31, "gzip"))
        self.rest = memoryview(bytes(size))
        self.assembler.feed(b"\0" + size.to_bytes(4), 0, 5)

    def feed(self, size: int) -> None:
        self.assembler.feed(self.rest, 0, min(size, len(self.rest)))
        self.rest = self.rest[size:]

    def cut_at(self, a_second: int, seconds: int = 200) -> int | None:
        """The second at which it is given up if it sends so many bytes each second."""
        for second in range(seconds):
            if self.watch.late([self.stream], second * SECOND_NS, scarce=self.scarce):
                return second
            self.feed(a_second)
        return None


def test_a_message_that_stands_still_is_given_up_after_a_stalls_time() -> None:
    """Large or small, much memory or little."""
    assert [Peer(size).cut_at(0) for size in (100, 10_000, 1 << 30)] == [STALL_S] * 3


def test_a_message_that_comes_steadily_is_waited_for() -> None:
    """A kilobyte in a stall's time is enough while there is memory."""
    assert Peer(1 << 30).cut_at(KIB // STALL_S + 1) is None
    assert Peer(1 << 30).cut_at(KIB // STALL_S - 2) == STALL_S


def test_where_memory_is_scarce_what_was_reserved_has_to_be_filled_at_a_pace() -> None:
    """A 256th part in a stall's time, so that nobody keeps others out for long at no cost."""
    pace = (1 << 30 >> 8) // STALL_S

    assert Peer(1 << 30, scarce=True).cut_at(pace + 1) is None
    assert Peer(1 << 30, scarce=True).cut_at(pace - 100) == STALL_S
    assert Peer(10_000, scarce=True).cut_at(40) is None


def test_what_inflates_counts_as_what_it_inflates_to() -> None:
    """A few bytes that stand for much memory have to come to their end."""
    body = prefixed(gzip.compress(bytes(32 << 20)), 1)
    peers = [Peer(0, scarce=scarce) for scarce in (False, True)]

    for peer in peers:
        peer.rest = memoryview(body)
        peer.feed(len(body) - 4_000)

    assert [peer.cut_at(50, 60) for peer in peers] == [None, STALL_S]


def test_a_peer_that_was_stopped_has_its_time_again() -> None:
    """Who may not send does not stall, and nobody counts that time afterwards."""
    peer = Peer(10_000)

    late = [
        peer.watch.late(
            [] if 10 <= second < 100 else [peer.stream], second * SECOND_NS, scarce=False
        )
        for second in range(140)
    ]

    assert [second for second, found in enumerate(late) if found] == list(range(130, 140))


@pytest.mark.parametrize("first", [100, 300_000])
def test_the_next_message_of_a_stream_has_a_time_of_its_own(first: int) -> None:
    """However much larger or smaller it is."""
    peer = Peer(first)
    peer.watch.late([peer.stream], 0, scarce=False)
    peer.feed(first)
    begun = peer.watch.late([peer.stream], 29 * SECOND_NS, scarce=False)
    peer.assembler.feed(b"\0" + (200_000).to_bytes(4), 0, 5)

    assert begun == []
    assert not peer.watch.late([peer.stream], 30 * SECOND_NS, scarce=False)
    assert not peer.watch.late([peer.stream], 59 * SECOND_NS, scarce=False)
    assert peer.watch.late([peer.stream], 60 * SECOND_NS, scarce=False)
