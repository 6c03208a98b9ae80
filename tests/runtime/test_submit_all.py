"""Requests that are queued together are queued as if one after the other."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.fakes import MS, HandClock, config, pending

from penstock_runtime.config_scheduling import DynamicBatching, QueuePolicy
from penstock_runtime.errors import DeadlineExceeded, Unavailable
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.scheduling.base import Pending, Retired
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.scheduling.queue import RequestQueue
from penstock_runtime.scheduling.timer import Timer

FAR = 10**15

# Per request: rows, milliseconds since the one before, milliseconds to its deadline (0: none).
crowds = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 20_000)), max_size=30
)


class NoTimer(Timer):
    """A timer that never rings: these tests move no clock."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> None:
        """Forget it."""


def crowd(described: Sequence[tuple[int, int, int]]) -> list[Pending]:
    """Requests in the order of their arrival."""
    found, at = [], 1
    for rows, later, patience in described:
        at += later * MS
        deadline = at + patience * MS if patience else None
        found.append(pending(rows=rows, at=at, deadline=deadline))
    return found


def scheduler(
    clock: HandClock, policy: QueuePolicy | None = None, *, batching: bool = True
) -> BatchScheduler:
    """One that batches up to eight rows."""
    rules = DynamicBatching(default_queue_policy=policy or QueuePolicy()) if batching else None
    batcher = DynamicBatcher(config(batching=rules))
    return BatchScheduler(batcher, ModelStatistics("m", 1), NoTimer(), clock=clock)


@given(crowds, st.lists(st.integers(0, 40), max_size=10))
def test_a_queue_is_the_same_however_its_requests_came(
    described: list[tuple[int, int, int]], removed: list[int]
) -> None:
    """Order, sums, the oldest and the next expiry; also after some have left from the middle."""
    one, many = crowd(described), crowd(described)
    by_one, together = RequestQueue(), RequestQueue()

    for each in one:
        by_one.push(each)
    assert together.push_plain(many)

    for index in (i for i in removed if i < len(one)):
        assert by_one.remove(one[index]) == together.remove(many[index])
    for queue in (by_one, together):
        assert queue.oldest_ns() == min((p.arrived_ns for p in queue), default=0)
    assert by_one.stats() == together.stats()
    assert by_one.next_expiry() == together.next_expiry()
    orders = [[p.order for p in queue.pop_front(len(one))] for queue in (by_one, together)]
    assert orders[0] == orders[1]
    assert (together.size, together.rows, together.oldest_ns()) == (0, 0, 0)


@given(crowds)
def test_what_has_left_a_queue_is_not_kept(described: list[tuple[int, int, int]]) -> None:
    """However requests leave, few of those that did are remembered."""
    queue = RequestQueue()
    for _ in range(8):
        requests = crowd(described)
        queue.push_plain(requests)
        for each in reversed(requests):
            queue.remove(each)

    assert len(queue._by_arrival) <= 64
    assert len(queue._expiry) <= 64 + 2 * len(described)


def test_a_queue_that_may_refuse_takes_none_together() -> None:
    """Limits, time-outs and levels are looked at one by one."""
    queues = [
        RequestQueue(policy=QueuePolicy(max_queue_size=5)),
        RequestQueue(policy=QueuePolicy(default_timeout_microseconds=5)),
        RequestQueue(levels=2),
    ]

    taken = [queue.push_plain([pending()]) for queue in queues]

    assert taken == [False] * 3
    assert [queue.size for queue in queues] == [0] * 3


@given(crowds)
def test_each_is_accepted_or_refused_as_it_would_be_alone(
    described: list[tuple[int, int, int]],
) -> None:
    """Full queues and deadlines that have passed refuse the same requests."""
    clock = HandClock(40 * MS)
    policy = QueuePolicy(max_queue_size=7)
    one, many = scheduler(clock, policy), scheduler(clock, policy)
    requests, others = crowd(described), crowd(described)
    refused = []
    for number, each in enumerate(requests):
        try:
            one.submit(each)
        except (Unavailable, DeadlineExceeded) as error:
            refused.append((number, type(error)))

    found = many.submit_all(others)

    assert [(others.index(each), type(error)) for each, error in found] == refused
    assert one.stats() == many.stats()
    assert one.unanswered == many.unanswered == len(requests) - len(refused)


def test_a_deadline_that_cannot_be_met_is_refused_among_others_that_can() -> None:
    """Together or alone: admission looks at each."""
    clock = HandClock(FAR)
    busy = scheduler(clock, batching=False)
    for _ in range(20):
        busy.predictor.observe(10 * MS)
    patient, hasty = pending(at=FAR, deadline=FAR + 10**12), pending(at=FAR, deadline=FAR + MS)

    refused = busy.submit_all([patient, hasty, pending(at=FAR)])

    assert [each for each, _ in refused] == [hasty]
    assert busy.stats().requests == 2


def test_a_scheduler_that_retires_refuses_all() -> None:
    """So that they can be asked of the version that follows."""
    retired = scheduler(HandClock())
    retired.drain(0.0)

    refused = retired.submit_all([pending(), pending()])

    assert [type(error) for _, error in refused] == [Retired] * 2


def test_a_short_execution_is_handed_over_with_others_and_a_long_one_alone() -> None:
    """As many as half a millisecond holds; all of them when asked for several only."""
    taken = {}
    for mean_ns in (10_000, 100_000, 5 * MS):
        for several in (True, False):
            one = scheduler(HandClock(), batching=False)
            one.predictor.observe(mean_ns)
            one.submit_all([pending(at=n) for n in range(100)])
            work = one.next_work(Gate(), several=several)
            taken[mean_ns, several] = len(work) if isinstance(work, list) else 1

    assert taken == {
        (10_000, True): 51,
        (10_000, False): 1,
        (100_000, True): 6,
        (100_000, False): 1,
        (5 * MS, True): 1,
        (5 * MS, False): 1,
    }


def test_a_deadline_that_has_passed_is_none_that_cannot_be_met() -> None:
    """While the instance is busy as well, alone or with others: nobody is told to try elsewhere."""
    clock = HandClock(10 * MS)
    busy = scheduler(clock)
    for _ in range(20):
        busy.predictor.observe(5 * MS)

    late = [pending(at=1, deadline=9 * MS) for _ in range(2)]
    refused = [error for _, error in busy.submit_all(late)]
    with pytest.raises(DeadlineExceeded, match="was not executed"):
        busy.submit(pending(at=1, deadline=9 * MS))

    assert [type(error) for error in refused] == [DeadlineExceeded] * 2
