"""When a connection is pinged, retired or given up, with times that are given."""

import pytest

from penstock.transport.http2.options import MS, Http2Options, S
from penstock.transport.http2.watch import Action, ConnectionWatch, Policy


def policy(**options: bool | float) -> Policy:
    return Policy.of(Http2Options(("a:1",), **options))  # type: ignore[arg-type]


class Peer:
    """A connection that was made at time 0, and its watch."""

    def __init__(self, **options: bool | float) -> None:
        self.watch = ConnectionWatch(policy(**options), 0)
        self.spoke = True
        self.heard_ns = 0
        self.calls = 1
        self.mark = 1
        self.sent = False

    def look(self, now_s: float) -> Action:
        return self.watch.look(
            int(now_s * S),
            spoke=self.spoke,
            heard_ns=self.heard_ns,
            calls=self.calls,
            mark=self.mark,
            sent=self.sent,
        )

    def ping(self, now_s: float) -> bool:
        return self.watch.pinged(int(now_s * S), calls=self.calls, sent=self.sent)


def test_who_does_not_speak_http2_in_time_is_dropped() -> None:
    """Whatever else is said of it."""
    peer = Peer(handshake_timeout_ms=20_000)
    peer.spoke = False

    assert peer.look(19.9) is Action.NOTHING
    assert peer.look(20) is Action.DROP
    assert peer.watch.why == "handshake_timeout"


def test_silence_is_answered_by_a_ping_and_further_silence_by_the_end() -> None:
    """Any byte in between is a sign of life."""
    peer = Peer(keepalive_time_ms=10_000, keepalive_timeout_ms=5_000)

    assert peer.look(9) is Action.NOTHING
    assert peer.look(10) is Action.PING
    assert peer.look(14) is Action.NOTHING
    peer.heard_ns = 14 * S
    assert peer.look(15) is Action.NOTHING
    assert peer.look(24) is Action.PING
    assert peer.look(29) is Action.DROP
    assert peer.watch.why == "keepalive_timeout"


def test_pings_that_are_answered_are_rarer_once_there_were_some_without_data() -> None:
    """A minute lies between them then; an answer that leaves starts the count anew."""
    peer = Peer(keepalive_time_ms=10_000, keepalive_timeout_ms=5_000, max_pings_without_data=2)
    pinged = []
    for second in range(200):
        if peer.look(second) is Action.PING:
            pinged.append(second)
            peer.heard_ns = second * S + 1
            peer.watch.acknowledged()
        peer.sent = second == 150

    assert pinged == [10, 21, 82, 143, 154, 165]


@pytest.mark.parametrize("permitted", [False, True])
def test_a_connection_without_calls_is_pinged_only_where_that_is_wanted(permitted: bool) -> None:
    """Off by default, as in gRPC."""
    peer = Peer(keepalive_time_ms=1000, keepalive_permit_without_calls=permitted)
    peer.calls = 0

    assert peer.look(2) is (Action.PING if permitted else Action.NOTHING)


def test_a_connection_is_renewed_at_its_age_give_or_take_a_tenth() -> None:
    """Then its calls have the grace to end."""
    peer = Peer(max_connection_age_ms=100_000, max_connection_age_grace_ms=5_000)

    assert peer.look(89.9) is Action.NOTHING
    assert peer.look(110) is Action.RETIRE
    assert peer.watch.why == "max_age"
    assert peer.look(114) is Action.NOTHING
    assert peer.look(115) is Action.CUT


def test_ages_are_spread() -> None:
    """Connections that were made together are not renewed together."""
    peers = [Peer(max_connection_age_ms=100_000) for _ in range(200)]

    retired = sum(peer.look(100) is Action.RETIRE for peer in peers)

    assert 50 < retired < 150


def test_a_connection_without_calls_is_retired_after_its_idle_time() -> None:
    """A call that begins and ends between two looks counts."""
    peer = Peer(max_connection_idle_ms=10_000)
    peer.calls = 0

    assert peer.look(1) is Action.NOTHING
    assert peer.look(10) is Action.NOTHING
    peer.mark = 3
    assert peer.look(11) is Action.NOTHING
    assert peer.look(20) is Action.NOTHING
    assert peer.look(21) is Action.RETIRE
    assert peer.watch.why == "max_idle"


def test_pings_that_come_too_early_are_struck_and_the_strikes_are_few() -> None:
    """As gRPC counts: the first is free, an answer that leaves forgives."""
    peer = Peer(min_recv_ping_interval_without_data_ms=1000, max_ping_strikes=2)

    assert [peer.ping(0.1 * number) for number in range(4)] == [False, False, False, True]
    peer.sent = True
    assert not peer.ping(0.4)
    peer.sent = False
    assert [peer.ping(0.5 + 0.1 * number) for number in range(3)] == [False, False, True]


def test_pings_that_keep_their_distance_are_welcome() -> None:
    """Without calls that distance is two hours, unless pings without calls are permitted."""
    patient = Peer(min_recv_ping_interval_without_data_ms=1000)
    alone = Peer(min_recv_ping_interval_without_data_ms=1000)
    alone.calls = 0
    permitted = Peer(
        min_recv_ping_interval_without_data_ms=1000, keepalive_permit_without_calls=True
    )
    permitted.calls = 0

    assert not any(patient.ping(number) for number in range(9))
    assert any(alone.ping(number) for number in range(9))
    assert not any(permitted.ping(number) for number in range(9))


def test_any_number_of_strikes_may_be_allowed() -> None:
    """0 means that."""
    peer = Peer(max_ping_strikes=0)

    assert not any(peer.ping(0) for _ in range(100))


def test_watches_are_looked_at_often_enough_for_the_shortest_time() -> None:
    """But not more often than a hundred times a second, and at least once a second."""
    assert policy().period_ns == S
    assert policy(keepalive_timeout_ms=400).period_ns == 100 * MS
    assert policy(handshake_timeout_ms=1).period_ns == 10 * MS
