"""Laws of the request queue."""

import pytest
from tests.runtime.fakes import MS, pending

from penstock_runtime.config_scheduling import QueuePolicy
from penstock_runtime.errors import DeadlineExceeded, FailureReason, Unavailable
from penstock_runtime.scheduling.queue import HORIZON_NS, RequestQueue


def test_without_deadlines_the_queue_is_first_in_first_out() -> None:
    """Requests without deadlines leave in the order in which they came."""
    queue = RequestQueue()
    came = [pending(at=i) for i in range(5)]
    for item in came:
        queue.push(item)

    left = queue.pop_front(5)

    assert left == came


def test_the_earliest_deadline_leaves_first_inside_a_level() -> None:
    """A later request with an earlier deadline overtakes; one without waits its horizon."""
    queue = RequestQueue()
    patient, late, soon = pending(at=0), pending(at=1, deadline=90 * MS), pending(at=2, deadline=MS)
    for item in (patient, late, soon):
        queue.push(item)

    left = queue.pop_front(3)

    assert left == [soon, late, patient]


def test_a_request_without_deadline_is_not_starved_by_deadlines() -> None:
    """After its horizon a patient request stands before newer ones, whatever their deadlines."""
    queue = RequestQueue()
    patient = pending(at=0)
    newer = pending(at=HORIZON_NS, deadline=HORIZON_NS + MS)
    queue.push(newer)
    queue.push(patient)

    left = queue.pop_front(1)

    assert left == [patient]


def test_a_higher_priority_leaves_first_whatever_the_deadline() -> None:
    """Level 1 is served before level 2, and 0 or an unknown level means the default."""
    queue = RequestQueue(levels=2, default_level=2)
    low = pending(priority=0, deadline=MS)
    strange = pending(priority=7, at=1)
    high = pending(priority=1, at=2)
    for item in (low, strange, high):
        queue.push(item)

    left = queue.pop_front(3)

    assert left == [high, low, strange]


def test_a_full_level_refuses_and_says_so() -> None:
    """max_queue_size counts per level, delayed requests included, and refuses with Triton's
    text.
    """
    queue = RequestQueue(policy=QueuePolicy(max_queue_size=1))
    queue.push(pending())

    with pytest.raises(Unavailable, match=r"^Exceeds maximum queue size$") as refused:
        queue.push(pending())

    assert refused.value.failure is FailureReason.REJECTED
    assert len(queue) == 1


def test_a_time_out_rejects_at_its_time() -> None:
    """With REJECT, a request is answered when its time-out ends and not before."""
    queue = RequestQueue(policy=QueuePolicy(default_timeout_microseconds=1000))
    item = pending(at=0)
    queue.push(item)

    early, due = queue.expire(MS - 1), queue.expire(MS)

    assert early == []
    assert [dead.pending for dead in due] == [item]
    assert str(due[0].error) == "Request timeout expired"
    assert len(queue) == 0


def test_a_delayed_request_is_served_after_all_others_of_its_level() -> None:
    """With DELAY, an expired request waits until no unexpired one is left."""
    queue = RequestQueue(
        policy=QueuePolicy(timeout_action="DELAY", default_timeout_microseconds=1000)
    )
    slow, fresh = pending(at=0), pending(at=2 * MS)
    queue.push(slow)
    dead = queue.expire(MS)
    queue.push(fresh)

    left = queue.pop_front(2)

    assert dead == []
    assert left == [fresh, slow]


@pytest.mark.parametrize(
    ("default_us", "allowed", "own_us", "expected"),
    [
        (1000, True, 400, 400_000),
        (1000, True, 4000, 1_000_000),
        (1000, False, 400, 1_000_000),
        (0, True, 400, None),
    ],
)
def test_a_request_may_shorten_its_time_out_and_never_lengthen_it(
    default_us: int, allowed: bool, own_us: int, expected: int | None
) -> None:
    """The override counts only when it is allowed, shorter, and there is a default to shorten."""
    policy = QueuePolicy(default_timeout_microseconds=default_us, allow_timeout_override=allowed)
    queue = RequestQueue(policy=policy)
    item = pending(timeout_us=own_us)

    queue.push(item)

    assert item.timeout_ns == expected


def test_a_past_deadline_leaves_with_deadline_exceeded() -> None:
    """Whoever's deadline passed in the queue is removed with DEADLINE_EXCEEDED, counted
    REJECTED.
    """
    queue = RequestQueue()
    queue.push(pending(deadline=MS))

    (dead,) = queue.expire(MS)

    assert isinstance(dead.error, DeadlineExceeded)
    assert dead.error.failure is FailureReason.REJECTED


def test_removed_requests_leave_nothing_behind() -> None:
    """Pushing and removing many requests with deadlines keeps the expiry book small."""
    queue = RequestQueue()
    for number in range(10_000):
        item = pending(at=number, deadline=HORIZON_NS * 5)
        queue.push(item)
        queue.remove(item)

    size = len(queue._expiry)

    assert size <= 64
    assert queue.stats().requests == queue.rows == 0
    assert queue.next_expiry() is None
