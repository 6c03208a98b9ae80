"""The batcher that chooses: it learns, keeps its goal where that can be kept, and says what it did.

The device is a formula and time a number: whole minutes of traffic pass in milliseconds.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.fakes import config
from tests.runtime.fakes import pending as make_pending

from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.latency_model import ENOUGH_EXECUTIONS, LatencyModel
from penstock_runtime.scheduling.tuned_batcher import PERIOD_NS, TunedBatcher
from penstock_runtime.scheduling.tuning import choose

MS = 1_000_000
S = 1_000_000_000


def tuned(goal_ms: float, most: int = 32, instances: int = 1, delay_us: int = 0) -> TunedBatcher:
    rules = DynamicBatching(slo_p99_ms=goal_ms, max_queue_delay_microseconds=delay_us)
    return TunedBatcher(config(max_batch=most, batching=rules), LatencyModel(), instances)


def taught(device: Callable[[int], float], sizes: int = 32) -> LatencyModel:
    model = LatencyModel()
    for _ in range(4):
        for rows in range(1, sizes + 1):
            model.observe(int(device(rows)), rows)
    return model


@dataclass
class Outcome:
    """What a simulated while of traffic was like."""

    latencies: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def p99_ms(self) -> float:
        later = sorted(self.latencies[len(self.latencies) // 4 :])
        return later[int(len(later) * 0.99)] / MS

    def done_per_execution(self) -> float:
        later = self.sizes[len(self.sizes) // 4 :]
        return sum(later) / len(later)


def simulate(
    batcher: DynamicBatcher,
    device: Callable[[int], float],
    rate: float,
    *,
    requests: int = 4000,
    instances: int = 1,
    seed: int = 1,
) -> Outcome:
    """Random arrivals at this rate (requests a second), executed by a device of this speed."""
    draw = random.Random(seed)
    outcome, now, arrived = Outcome(), 0, 0
    arrival = 0
    free, busy = instances, list[tuple[int, int, int]]()
    while len(outcome.latencies) < requests:
        wake = batcher.wake_at(now) if free else None
        moments = [m for m in (busy[0][0] if busy else None, wake) if m is not None]
        if arrived < requests:
            moments.append(arrival)
        now = max(now, min(moments))
        while busy and busy[0][0] <= now:
            _, duration, rows = heapq.heappop(busy)
            free += 1
            model = getattr(batcher, "_model", None)
            if model is not None:
                model.observe(duration, rows)
        while arrived < requests and arrival <= now:
            batcher.add(make_pending(at=arrival), now)
            arrived += 1
            arrival += max(int(draw.expovariate(rate) * S), 1)
        while free and (members := batcher.take(now)) is not None:
            duration = int(device(len(members)) * draw.uniform(0.95, 1.1))
            heapq.heappush(busy, (now + duration, duration, len(members)))
            free -= 1
            outcome.sizes.append(len(members))
            outcome.latencies += [now + duration - p.arrived_ns for p in members]
    return outcome


def flat(rows: int) -> float:
    """A device that takes 4 ms however few rows there are, and a little for each."""
    return 4 * MS + 0.05 * MS * rows


def steep(rows: int) -> float:
    """One that works row by row."""
    return 0.2 * MS + 1 * MS * rows


# -- learning ------------------------------------------------------------------------------------


@given(st.floats(0, 50), st.floats(0.001, 5), st.integers(2, 64))
def test_a_line_is_learned_as_it_is(fixed_ms: float, row_ms: float, most: int) -> None:
    """From two sizes on; predictions between and beyond follow it."""
    model = taught(lambda rows: (fixed_ms + row_ms * rows) * MS, most)

    for rows in (1, most, 2 * most):
        expected = (fixed_ms + row_ms * rows) * MS
        assert model.typical_ns(rows) == pytest.approx(expected, rel=1e-3, abs=1e4)


@given(st.lists(st.tuples(st.integers(1, S), st.integers(1, 128)), max_size=60))
def test_no_prediction_is_ever_below_zero_or_falls_with_rows(seen: list[tuple[int, int]]) -> None:
    """Whatever was observed, in whatever order."""
    model = LatencyModel()
    for duration, rows in seen:
        model.observe(duration, rows)

    predicted = [model.typical_ns(rows) for rows in range(1, 130)]

    assert predicted == sorted(predicted)
    assert predicted[0] >= 0
    assert all(model.slow_ns(rows) >= model.typical_ns(rows) for rows in (1, 7, 129))


def test_two_instances_that_learn_at_once_do_not_tear_what_is_known() -> None:
    """An observation may be lost to another one, but never a part of it."""
    model = LatencyModel()

    class Interrupted(float):
        """A duration; while it is added up, another instance comes in between."""

        def __radd__(self, sum_before: float) -> float:
            model.observe(3 * MS, 1)
            return sum_before + float(self)

    for _ in range(20):
        model.observe(Interrupted(3 * MS), 1)  # type: ignore[arg-type]

    assert model.only_rows == 1
    assert model.typical_ns(1) == pytest.approx(3 * MS)


def test_the_slow_ones_are_told_from_the_typical() -> None:
    """One execution in fifty takes three times as long: the 99th percentile is among those."""
    model, draw = LatencyModel(), random.Random(7)
    for _ in range(5000):
        model.observe(int(MS * (3 if draw.random() < 0.02 else 1)), 1)

    assert model.slow_ns(1) > 1.5 * model.typical_ns(1)


def test_a_device_that_becomes_slower_is_noticed() -> None:
    """What was seen long ago counts less and less."""
    model = taught(flat)
    for _ in range(20):
        for rows in (4, 8, 16):
            model.observe(int(3 * flat(rows)), rows)

    assert model.typical_ns(8) == pytest.approx(3 * flat(8), rel=0.3)


# -- choosing ------------------------------------------------------------------------------------


def test_nothing_is_chosen_before_enough_was_seen() -> None:
    """Until then whatever waits is executed at once."""
    batcher = tuned(20)
    model = batcher._model
    for _ in range(ENOUGH_EXECUTIONS - 1):
        model.observe(10 * MS, 4)

    choice = choose(model, 20 * MS, 32, 1000.0, 1, 0)

    assert (choice.size, choice.wait_ns) == (32, 0)
    assert "too few" in choice.reason


def test_few_requests_are_not_made_to_wait_for_others() -> None:
    """One row at a time keeps up: the smallest latency is the best one."""
    choice = choose(taught(flat), 50 * MS, 32, 100.0, 1, 0)

    assert (choice.size, choice.wait_ns, choice.keeps) == (1, 0, True)


def test_many_requests_get_larger_batches_and_no_larger_than_need_be() -> None:
    """The smallest size whose capacity is above what arrives."""
    choice = choose(taught(flat), 50 * MS, 32, 2000.0, 1, 0)

    assert 10 <= choice.size <= 15
    assert choice.keeps
    assert "smallest that keep up with 2000 rows/s" in choice.reason


def test_several_instances_share_what_arrives() -> None:
    """So each may do with smaller batches."""
    one = choose(taught(flat), 50 * MS, 32, 2000.0, 1, 0)
    four = choose(taught(flat), 50 * MS, 32, 2000.0, 4, 0)

    assert four.size < one.size


def test_a_batch_that_would_break_the_goal_is_not_formed() -> None:
    """The limit is for who comes just too late for the batch before."""
    choice = choose(taught(steep), 20 * MS, 32, 5000.0, 1, 0)

    assert choice.limit <= 10
    assert choice.size <= choice.limit
    assert not choice.keeps
    assert "more than batches within 20 ms can do" in choice.reason


def test_a_goal_that_cannot_be_kept_is_said_to_be_so() -> None:
    """And as much as possible is done nevertheless, at once."""
    choice = choose(taught(flat), 3 * MS, 32, 2000.0, 1, 0)

    assert not choice.keeps
    assert choice.wait_ns == 0
    assert choice.reason.startswith("the goal of 3 ms cannot be kept: one row alone takes 4.")


@pytest.mark.parametrize("goal_ms", [10.0, 5.0])
def test_one_size_that_was_seen_does_not_hide_what_larger_ones_can_do(goal_ms: float) -> None:
    """After a calm in which every request was executed alone, a burst finds the better sizes."""
    rules, model = DynamicBatching(slo_p99_ms=goal_ms), LatencyModel()
    for _ in range(200):
        model.observe(3 * MS, 1)
    batcher = TunedBatcher(config(max_batch=32, batching=rules), model)
    batcher.take(0)
    batcher.take(PERIOD_NS)

    outcome = simulate(batcher, lambda rows: 3 * MS + 0.02 * MS * rows, 600)

    assert outcome.p99_ms() < 15
    assert batcher.choice.limit == 32


def test_a_larger_size_is_tried_only_while_the_known_one_does_not_keep_up() -> None:
    """A try is told as one, and is twice what was seen."""
    model = LatencyModel()
    for _ in range(200):
        model.observe(3 * MS, 1)

    busy, calm = (choose(model, 10 * MS, 32, rate, 1, 0) for rate in (600, 100))

    assert (busy.size, busy.limit, busy.keeps) == (2, 2, False)
    assert "only batches of 1 were seen" in busy.reason
    assert (calm.size, calm.limit) == (1, 1)


def test_the_configured_delay_bounds_the_chosen_one() -> None:
    """max_queue_delay_microseconds goes on to mean what it says."""
    free = choose(taught(flat), 100 * MS, 32, 1500.0, 1, 0)
    bound = choose(taught(flat), 100 * MS, 32, 1500.0, 1, 1 * MS)

    assert free.wait_ns > 1 * MS
    assert bound.wait_ns == 1 * MS


@given(
    st.floats(0.01, 20),
    st.floats(0.001, 3),
    st.floats(0.5, 200),
    st.floats(0, 1e5),
    st.integers(1, 2000),
    st.integers(1, 8),
)
@settings(max_examples=60)
def test_every_choice_is_possible(
    fixed: float, row: float, goal: float, rate: float, most: int, instances: int
) -> None:
    """Whatever the device, the goal and the traffic are like."""
    model = taught(lambda rows: (fixed + row * rows) * MS)

    choice = choose(model, int(goal * MS), most, rate, instances, 0)

    assert 1 <= choice.size <= choice.limit <= most
    assert 0 <= choice.wait_ns <= goal * MS
    assert choice.p99_ns <= goal * MS or not choice.keeps
    assert choice.reason


# -- a while of traffic --------------------------------------------------------------------------


@pytest.mark.parametrize("device", [flat, steep])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_goal_is_kept_wherever_it_can_be(device: Callable[[int], float], share: float) -> None:
    """At any share of what the device can do within the goal."""
    goal_ms = 40.0
    limit = choose(taught(device), int(goal_ms * MS), 32, 0.0, 1, 0).limit
    rate = share * limit * S / device(limit)

    outcome = simulate(tuned(goal_ms), device, rate)

    assert outcome.p99_ms() <= goal_ms


def test_a_static_batcher_of_full_batches_breaks_the_goal_that_the_tuned_one_keeps() -> None:
    """Waiting for a full batch when little arrives is what a delay that nobody tuned does."""
    rules = DynamicBatching(preferred_batch_size=(32,), max_queue_delay_microseconds=100_000)
    static = DynamicBatcher(config(max_batch=32, batching=rules))

    waiting = simulate(static, flat, 150.0)
    choosing = simulate(tuned(30), flat, 150.0)

    assert waiting.p99_ms() > 90
    assert choosing.p99_ms() <= 30


def test_more_traffic_makes_larger_batches() -> None:
    """And when it is over they are small again."""
    batcher = tuned(60)
    few = simulate(batcher, flat, 100.0).done_per_execution()
    batcher = tuned(60)
    many = simulate(batcher, flat, 3000.0).done_per_execution()

    assert few < 2
    assert many > 10


def test_what_is_refused_does_not_count_as_arrived() -> None:
    """A queue that is full says nothing of what can be done."""
    batcher = tuned(20)
    late = make_pending(at=0)
    late.deadline_ns = 1

    with pytest.raises(Exception, match="deadline exceeded"):
        batcher.add(late, 5)

    assert batcher._arrived == 0


def test_the_choice_is_made_anew_by_the_clock_and_not_by_requests() -> None:
    """However many ask in between."""
    batcher = tuned(20)
    batcher.take(0)
    before = batcher.choice
    for at in range(0, PERIOD_NS, PERIOD_NS // 10):
        batcher.take(at)
    same = batcher.choice
    batcher.take(PERIOD_NS)

    assert same is before
    assert batcher.choice is not before


def test_without_a_goal_the_rules_are_the_static_ones() -> None:
    """A model that has none gets no batcher that chooses."""
    from penstock_runtime.starting import make_batcher

    plain = config(max_batch=8, batching=DynamicBatching())

    assert type(make_batcher(plain)) is DynamicBatcher
    asked = replace(plain, dynamic_batching=DynamicBatching(slo_p99_ms=5))
    assert isinstance(make_batcher(asked, 0, LatencyModel()), TunedBatcher)
