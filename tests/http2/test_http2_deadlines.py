"""Deadlines are told of once, never early and at most a tick late, with one timer for all."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.transport.http2.deadlines import SPAN_NS, TICK_NS, DeadlineWheel

S = 1_000_000_000


@dataclass(eq=False)
class Item:
    """Something with a deadline."""

    deadline_ns: int
    bucket: set[Any] | None = None


@dataclass
class Clock:
    """A wheel, the one timer it asked for, and the time."""

    now_ns: int = 7 * S
    armed_ns: int | None = None
    fired: int = 0
    told: list[Item] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wheel = DeadlineWheel(self.arm)

    def arm(self, at_ns: int) -> None:
        self.armed_ns = at_ns

    def add(self, after_ns: int) -> Item:
        item = Item(self.now_ns + after_ns)
        self.wheel.add(item, item.deadline_ns, self.now_ns)
        return item

    def run_until(self, until_ns: int) -> None:
        """Let time pass; the timer fires when it was asked to."""
        while self.armed_ns is not None and self.armed_ns <= until_ns:
            self.now_ns = max(self.now_ns, self.armed_ns)
            self.armed_ns = None
            self.fired += 1
            for item in self.wheel.fire(self.now_ns):
                assert item.deadline_ns <= self.now_ns <= item.deadline_ns + 2 * TICK_NS
                self.told.append(item)
        self.now_ns = max(self.now_ns, until_ns)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * SPAN_NS),
            st.integers(0, 4 * SPAN_NS) | st.integers(-5, 100 * S),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_every_deadline_is_told_once_in_time_unless_it_is_taken_back(
    steps: list[tuple[int, int, bool]],
) -> None:
    """Whatever the order of adding, taking back and the passing of time."""
    clock = Clock()
    kept: list[Item] = []
    gone: list[Item] = []
    for pause_ns, after_ns, keep in steps:
        clock.run_until(clock.now_ns + pause_ns)
        item = clock.add(max(after_ns, -5))
        (kept if keep else gone).append(item)
        if not keep:
            clock.wheel.discard(item)

    clock.run_until(clock.now_ns + 200 * S)

    assert sorted(map(id, clock.told)) == sorted(map(id, kept))
    assert len(clock.wheel) == 0
    assert clock.armed_ns is None
    assert all(item.bucket is None for item in kept + gone)


def test_many_calls_that_end_in_time_cost_a_wake_up_a_second() -> None:
    """Deadlines that are far away and taken back need no tick."""
    clock = Clock()
    for _ in range(10_000):
        item = clock.add(30 * S)
        clock.run_until(clock.now_ns + S // 1000)
        clock.wheel.discard(item)

    assert clock.fired <= 11
    assert clock.told == []


def test_taking_back_twice_or_what_was_told_is_nothing() -> None:
    """A call may end in the moment in which its deadline passes."""
    clock = Clock()
    item = clock.add(5)
    clock.wheel.discard(item)
    clock.wheel.discard(item)
    late = clock.add(5)
    clock.run_until(clock.now_ns + S)

    clock.wheel.discard(late)

    assert clock.told == [late]
    assert repr(clock.wheel) == "<DeadlineWheel 0 deadlines>"
