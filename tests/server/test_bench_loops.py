"""The load loops, on a carrier and a clock that are functions."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.bench_fakes import MS, FakeCarrier, S, measure

from penstock.bench.loops import Plan
from penstock.bench.sample import Level
from penstock.bench.schedule import Kind


def after(ns: int) -> FakeCarrier:
    """A server that answers every call after the same time, however many there are."""
    return FakeCarrier(lambda sent: sent + ns)


def stalled(begin: int, end: int, ns: int = MS) -> FakeCarrier:
    """A server that answers at once, but not between two times."""
    return FakeCarrier(lambda sent: max(sent + ns, end) if begin <= sent < end else sent + ns)


def one_by_one(ns: int) -> FakeCarrier:
    """A server that works on one call after the other."""
    free = [0]

    def service(sent: int) -> int:
        free[0] = max(free[0], sent) + ns
        return free[0]

    return FakeCarrier(service)


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    """Throughput is concurrency over latency, and the bound is kept exactly."""
    carrier = after(2 * MS)

    sample = measure(carrier, Level(concurrency=8), Plan(1.0, 0.1))

    assert carrier.most == 8
    assert sample.calls_per_s == pytest.approx(4000, rel=0.01)
    assert sample.latencies.percentile(0.99) == pytest.approx(2 * MS, rel=0.01)


def test_a_closed_loop_hides_a_stall_and_an_open_loop_does_not() -> None:
    """A server that stalls for a fifth of the time: the open loop charges every call that was due
    meanwhile, where the closed loop sees one slow call for each in flight.
    """
    plan = Plan(5.0, 0.5)
    closed = measure(stalled(2 * S, 3 * S), Level(concurrency=1), plan)
    opened = measure(stalled(2 * S, 3 * S), Level(rate=1000), plan)

    assert closed.latencies.percentile(0.99) < 2 * MS
    assert opened.latencies.percentile(0.9) == pytest.approx(S / 2, rel=0.02)
    assert opened.latencies.percentile(0.79) < 2 * MS


@pytest.mark.parametrize("most", [1, 10, 100])
def test_a_bound_on_calls_in_flight_does_not_hide_a_stall(most: int) -> None:
    """Calls that the bound kept back are charged with their waiting all the same."""
    carrier = stalled(2 * S, 3 * S, ns=MS // 10)

    sample = measure(carrier, Level(rate=1000), Plan(5.0, 0.5, max_in_flight=most))

    assert carrier.most <= most
    assert 0.49 * S < sample.latencies.percentile(0.9) < 0.6 * S
    assert sample.latencies.count == 5000


def test_a_stall_at_the_very_end_is_charged_too() -> None:
    """What was due inside the window is sent after it, and counts from when it was due."""
    carrier = stalled(5 * S, int(5.4 * S))

    sample = measure(carrier, Level(rate=1000), Plan(5.0, 0.2, max_in_flight=10))

    assert sample.latencies.count == 5000
    assert sample.unsent == 0
    assert sample.latencies.most == pytest.approx(0.4 * S, rel=0.02)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["fixed", "poisson"]), st.integers(1, 3000), st.integers(0, 20))
def test_an_open_loop_sends_what_is_due_when_it_is_due(
    kind: Kind, rate: int, latency_ms: int
) -> None:
    """Whatever the latency: nothing is sent early, and with room everything in time."""
    carrier = after(latency_ms * MS)

    sample = measure(carrier, Level(rate=rate, arrivals=kind), Plan(0.5, 0.1))

    assert all(before <= later for before, later in pairwise(carrier.sent))
    assert sample.lateness.most <= 20_000
    assert sample.latencies.count == sample.lateness.count
    assert sample.unsent == 0
    if kind == "fixed":
        assert abs(sample.latencies.count - rate * 0.5) <= 1


def test_a_rate_that_is_kept_is_said_to_be() -> None:
    """Also where many are in flight, as long as their number does not rise."""
    sample = measure(after(200 * MS), Level(rate=2000), Plan(2.0, 1.0))

    assert sample.kept
    assert sample.calls_per_s == pytest.approx(2000, rel=0.01)


def test_overload_is_reported_as_such() -> None:
    """A server that does 1000 a second, asked 2000: the rate was not kept, half was never sent."""
    sample = measure(one_by_one(MS), Level(rate=2000), Plan(4.0, 0.1, max_in_flight=100))

    assert not sample.kept
    assert sample.calls_per_s == pytest.approx(1000, rel=0.02)
    assert sample.unsent == pytest.approx(4000 - 500, rel=0.05)
    assert sample.latencies.percentile(0.99) > 1.8 * S


def test_overload_within_the_bound_is_reported_too() -> None:
    """All calls could be sent, but ever more of them wait."""
    sample = measure(one_by_one(2 * MS), Level(rate=600), Plan(2.0, 0.1, max_in_flight=10_000))

    assert sample.unsent == 0
    assert not sample.kept
    assert sample.latencies.count == 1200


@pytest.mark.parametrize("level", [Level(concurrency=4), Level(rate=1000)])
def test_a_number_of_requests_is_met_exactly(level: Level) -> None:
    """So many calls belong to the window, and the window ends with the last answer."""
    sample = measure(after(MS), level, Plan(1.0, 0.1, requests=777))

    assert sample.latencies.count == 777
    assert sample.calls_per_s == pytest.approx(4000 if level.concurrency else 1000, rel=0.05)


@pytest.mark.parametrize("level", [Level(concurrency=4), Level(rate=1000)])
def test_a_number_of_requests_that_all_fail_takes_the_time_that_it_took(level: Level) -> None:
    """The window ends with the last call, be it a failure, and so does the CPU of the window."""
    sample = measure(FakeCarrier(lambda _: None), level, Plan(1.0, 0.1, requests=100))

    assert sample.failures == 100
    assert sample.seconds > 0.05
    assert sample.client_cpu_s / sample.seconds == pytest.approx(0.2, rel=0.01)
    assert (sample.server_cpu_s or 0) / sample.seconds == pytest.approx(0.5, rel=0.01)


def test_calls_that_never_end_belong_to_the_time_of_a_number_of_requests() -> None:
    """The wait for them is in the window as it is in the CPU."""
    carrier = FakeCarrier(lambda sent: sent + (1000 * S if sent > 150 * MS else MS))

    sample = measure(carrier, Level(rate=1000), Plan(1.0, 0.1, requests=100, timeout_s=2.0))

    assert sample.failures == pytest.approx(50, abs=2)
    assert sample.seconds == pytest.approx(2.1, rel=0.05)
    assert sample.client_cpu_s / sample.seconds == pytest.approx(0.2, rel=0.01)


def test_warm_up_is_not_counted() -> None:
    """What was slow before the window began leaves no trace."""
    carrier = FakeCarrier(lambda sent: sent + (100 * MS if sent < S // 2 else MS))

    sample = measure(carrier, Level(concurrency=1), Plan(1.0, 1.0))

    assert sample.latencies.most < 2 * MS


def test_refusals_are_counted_and_do_not_spin() -> None:
    """A server that refuses at once is asked again after a pause for each call in flight."""
    carrier = FakeCarrier(lambda _: None)

    sample = measure(carrier, Level(concurrency=4), Plan(1.0, 0.1))

    assert sample.errors["UNAVAILABLE"].first == "busy"
    assert 300 < sample.failures < 500
    assert sample.calls_per_s == 0


def test_calls_that_never_end_fail_in_the_end() -> None:
    """The wait after the window is bounded by the deadline."""
    carrier = after(1000 * S)

    sample = measure(carrier, Level(concurrency=3), Plan(1.0, 0.1, timeout_s=2.0))

    assert carrier.abandoned == 3
    assert carrier.now < 4 * S
    assert sample.latencies.count == 0


def test_a_server_that_has_no_room_is_waited_for() -> None:
    """Calls wait for a stream, not the loop; their waiting counts."""
    carrier = FakeCarrier(lambda sent: sent + 10 * MS, room=5)

    sample = measure(carrier, Level(rate=1000), Plan(1.0, 0.1))

    assert carrier.most == 5
    assert not sample.kept
    assert sample.calls_per_s == pytest.approx(500, rel=0.02)


def test_cpu_is_that_of_the_window() -> None:
    """Warm-up and the last wait do not count."""
    sample = measure(after(MS), Level(concurrency=1), Plan(1.0, 3.0))

    assert sample.client_cpu_s == pytest.approx(0.2, rel=0.01)
    assert sample.server_cpu_s == pytest.approx(0.5, rel=0.01)


def test_a_long_run_of_many_calls_takes_bounded_memory() -> None:
    """Recorders are folded while the loop runs."""
    carrier = after(MS // 10)

    sample = measure(carrier, Level(rate=20_000), Plan(2.0, 0.1))

    assert sample.latencies.count == 40_000
    assert len(carrier.meter.latencies._fresh) == 0
