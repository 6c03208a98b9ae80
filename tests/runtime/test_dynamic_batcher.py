"""Laws of the dynamic batcher: Triton's rules to the request, and a model test of everything at
once.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.runtime.fakes import MS, config, pending

from penstock_runtime.config_scheduling import DynamicBatching, QueuePolicy
from penstock_runtime.errors import DeadlineExceeded, PenstockError
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher


def batcher(max_batch: int = 8, hold: int = 0, **rules: Any) -> DynamicBatcher:
    """A batcher with these dynamic_batching settings."""
    made = DynamicBatching(**rules)
    return DynamicBatcher(config(max_batch=max_batch, batching=made), hold_until=hold)


def sizes(decider: DynamicBatcher, now: int = 0) -> list[int]:
    """The rows of each batch that is taken, one after the other, at this time."""
    taken: list[int] = []
    while (members := decider.take(now)) is not None:
        taken.append(sum(p.batch_size for p in members))
    return taken


def fill(decider: DynamicBatcher, rows: list[int], at: int = 0) -> list[Pending]:
    """Requests of these many rows, added in this order."""
    added = [pending(rows=count, at=at) for count in rows]
    for item in added:
        decider.add(item, at)
    return added


@pytest.mark.parametrize(
    ("rules", "rows", "expected"),
    [
        # No delay: what is there runs as soon as an instance is free, up to the maximum.
        ({}, [1] * 5, [5]),
        ({}, [1] * 20, [8, 8, 4]),
        # A request is never split.
        ({}, [3, 3, 3], [6, 3]),
        # A preferred size is taken early, the rest without a preferred size as it is.
        ({"preferred_batch_size": (4,)}, [1] * 6, [4, 2]),
        ({"preferred_batch_size": (2, 4)}, [1] * 7, [4, 2, 1]),
        # The next request would jump over the largest preferred size: what is before it leaves.
        ({"preferred_batch_size": (4,)}, [3, 3], [3, 3]),
    ],
)
def test_batches_are_cut_as_triton_cuts_them(
    rules: dict[str, Any], rows: list[int], expected: list[int]
) -> None:
    """Preferred sizes, the maximum and request borders decide; with no delay nothing waits."""
    decider = batcher(**rules)
    fill(decider, rows)

    assert sizes(decider) == expected


def test_a_batch_waits_for_its_preferred_size_until_the_delay_ends() -> None:
    """With a delay, fewer rows than preferred wait, and leave when the oldest has waited enough."""
    decider = batcher(preferred_batch_size=(4,), max_queue_delay_microseconds=1000)
    fill(decider, [1, 1], at=0)

    before, at_end = decider.take(MS - 1), decider.take(MS)

    assert before is None
    assert at_end is not None
    assert len(at_end) == 2


def test_a_full_preferred_batch_does_not_wait_for_the_delay() -> None:
    """A preferred size that is reached leaves at once, though the delay has hardly begun."""
    decider = batcher(preferred_batch_size=(4,), max_queue_delay_microseconds=1000)
    fill(decider, [1] * 5)

    assert sizes(decider, now=1) == [4]


def test_the_batcher_asks_to_be_woken_at_the_end_of_the_delay() -> None:
    """wake_at is when the oldest request has waited its delay, or the nearest expiry before."""
    decider = batcher(max_queue_delay_microseconds=1000)
    decider.add(pending(at=5), 5)
    at_delay = decider.wake_at(5)
    decider.add(pending(at=6, deadline=700), 6)

    assert at_delay == 5 + MS
    assert decider.wake_at(6) == 700


def test_different_shapes_never_share_a_batch() -> None:
    """A request of another signature ends the batch before it, and keeps its place."""
    decider = batcher()
    for signature in ("a", "a", "b", "a"):
        decider.add(pending(signature=signature), 0)

    assert sizes(decider) == [2, 1, 1]


def test_without_dynamic_batching_every_request_is_alone() -> None:
    """Batching is off unless the configuration has the block."""
    decider = DynamicBatcher(config(max_batch=8))
    fill(decider, [1, 1, 2])

    assert sizes(decider) == [1, 1, 2]


def test_a_request_past_its_deadline_on_arrival_is_refused() -> None:
    """What nobody waits for any more is not even queued."""
    decider = batcher()

    with pytest.raises(DeadlineExceeded):
        decider.add(pending(deadline=10), 10)

    assert decider.stats().requests == 0


def test_the_hook_holds_the_first_batch_until_enough_requests_wait() -> None:
    """hold_until delays once; afterwards the batcher is its normal self."""
    decider = batcher(hold=3)
    fill(decider, [1, 1])
    held = decider.take(0)
    fill(decider, [1])

    assert held is None
    assert sizes(decider) == [3]
    fill(decider, [1])
    assert sizes(decider) == [1]


@dataclass
class History:
    """What became of every request that was accepted."""

    accepted: list[Pending] = field(default_factory=list)
    executed: list[Pending] = field(default_factory=list)
    dead: list[Pending] = field(default_factory=list)
    cancelled: list[Pending] = field(default_factory=list)


class BatcherMachine(RuleBasedStateMachine):
    """Random arrivals, cancels, deadlines and sizes against the promises of the batcher."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.history = History()

    @initialize(
        max_batch=st.integers(1, 8),
        delay_us=st.sampled_from([0, 0, 500, 2000]),
        preferred=st.lists(st.integers(1, 8), max_size=2),
        levels=st.integers(0, 3),
        action=st.sampled_from(["REJECT", "DELAY"]),
        timeout_us=st.sampled_from([0, 0, 800]),
        queue_size=st.sampled_from([0, 0, 6]),
    )
    def start(
        self,
        max_batch: int,
        delay_us: int,
        preferred: list[int],
        levels: int,
        action: str,
        timeout_us: int,
        queue_size: int,
    ) -> None:
        self.max_batch = max_batch
        policy = QueuePolicy(
            action, timeout_us, allow_timeout_override=True, max_queue_size=queue_size
        )
        self.policies = DynamicBatching(
            tuple(size for size in preferred if size <= max_batch),
            delay_us,
            priority_levels=levels,
            default_priority_level=levels,
            default_queue_policy=policy,
        )
        self.plain = not levels and action == "REJECT"
        self.batcher = DynamicBatcher(config(max_batch=max_batch, batching=self.policies))

    @rule(
        rows=st.integers(1, 8),
        deadline_us=st.none() | st.integers(-10, 5000),
        priority=st.integers(0, 4),
        timeout_us=st.sampled_from([0, 300]),
        signature=st.sampled_from(["a", "a", "a", "b"]),
    )
    def arrive(
        self,
        rows: int,
        deadline_us: int | None,
        priority: int,
        timeout_us: int,
        signature: str,
    ) -> None:
        deadline = None if deadline_us is None else self.now + deadline_us * 1000
        item = pending(
            rows=min(rows, self.max_batch),
            at=self.now,
            deadline=deadline,
            priority=priority,
            timeout_us=timeout_us,
            signature=signature,
        )
        try:
            self.batcher.add(item, self.now)
        except PenstockError:
            return
        self.history.accepted.append(item)

    @rule(step_us=st.integers(0, 3000))
    def time_passes(self, step_us: int) -> None:
        self.now += step_us * 1000

    @rule()
    def an_instance_asks(self) -> None:
        self.history.dead.extend(item.pending for item in self.batcher.expire(self.now))
        members = self.batcher.take(self.now)
        if members is None:
            return
        assert 0 < sum(item.batch_size for item in members) <= self.max_batch
        assert len({item.signature for item in members}) == 1
        assert all(item.deadline_ns is None or item.deadline_ns > self.now for item in members)
        self.history.executed.extend(members)

    @precondition(lambda self: self.history.accepted)
    @rule(data=st.data())
    def a_caller_gives_up(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.history.accepted))
        waited = item.queued
        assert self.batcher.cancel(item) is waited
        if waited:
            self.history.cancelled.append(item)

    @invariant()
    def each_accepted_request_is_in_exactly_one_place(self) -> None:
        if not hasattr(self, "batcher"):
            return
        history = self.history
        gone = [*history.executed, *history.dead, *history.cancelled]
        assert len({id(item) for item in gone}) == len(gone)
        waiting = [item for item in history.accepted if item.queued]
        assert len(waiting) + len(gone) == len(history.accepted)
        stats = self.batcher.stats()
        assert (stats.requests, stats.rows) == (
            len(waiting),
            sum(item.batch_size for item in waiting),
        )

    @invariant()
    def equals_leave_in_order_of_arrival(self) -> None:
        if not hasattr(self, "batcher") or not self.plain:
            return
        patient = [item.order for item in self.history.executed if item.deadline_ns is None]
        assert patient == sorted(patient)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        # Nothing waits for ever: once every delay and time-out has passed, the queue empties.
        self.now += 10**12
        self.history.dead.extend(item.pending for item in self.batcher.expire(self.now))
        while (members := self.batcher.take(self.now)) is not None:
            self.history.executed.extend(members)
        assert self.batcher.stats().requests == 0
        self.each_accepted_request_is_in_exactly_one_place()


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
