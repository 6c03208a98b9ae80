"""Laws of the rate limiter: never over budget, never stuck, never unfair, nothing kept."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_runtime.config import RateLimiter as Group
from penstock_runtime.config import RateLimiterResource
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.scheduling.rate_limiter import Claim, RateLimiter, Resource, claim_of

R: Resource = ("r", 0)
S: Resource = ("s", None)
TOTALS: dict[Resource, int] = {("r", None): 4, ("s", None): 3}
CLAIMS = st.builds(
    lambda r, s, priority: Claim({k: n for k, n in ((R, r), (S, s)) if n}, priority),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(1, 4),
)


class Limited(RuleBasedStateMachine):
    """Instances that come, ask, execute, give back and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter: RateLimiter[int] = RateLimiter(TOTALS)
        self.claims: dict[int, Claim] = {}
        self.line: set[int] = set()
        self.holders: set[int] = set()
        self.numbers = 0

    def grant(self) -> None:
        """As is done after every event."""
        granted = self.limiter.grant()
        assert len(granted) == len(set(granted))
        assert set(granted) <= self.line
        self.holders |= set(granted)
        self.line -= set(granted)

    def one(self, data: Any, keys: set[int]) -> int:
        """One of these instances."""
        key: int = data.draw(st.sampled_from(sorted(keys)))
        return key

    @rule(claim=CLAIMS)
    def enter(self, claim: Claim) -> None:
        """One more instance."""
        self.numbers += 1
        self.limiter.enter(self.numbers, claim)
        self.claims[self.numbers] = claim

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def ask(self, data: Any) -> None:
        """Whoever has its turn or stands in line already changes nothing by that."""
        key = self.one(data, set(self.claims))
        self.limiter.ask(key)
        if key not in self.holders:
            self.line.add(key)
        self.grant()

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        """An execution ends."""
        key = self.one(data, self.holders)
        assert self.limiter.give_back(key)
        self.holders.discard(key)
        self.grant()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def withdraw(self, data: Any) -> None:
        """Out of the line, or a turn that was none."""
        key = self.one(data, set(self.claims))
        self.limiter.withdraw(key)
        self.line.discard(key)
        self.holders.discard(key)
        self.grant()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        """Gone, whatever it was doing; a second time is nothing."""
        key = self.one(data, set(self.claims))
        for _ in range(2):
            self.limiter.leave(key)
        del self.claims[key]
        self.line.discard(key)
        self.holders.discard(key)
        self.grant()

    def free(self) -> dict[Resource, int]:
        """What is left beside what the holders need."""
        left = {R: TOTALS["r", None], S: TOTALS[S]}
        for key in self.holders:
            for resource, needed in self.claims[key].needs.items():
                left[resource] -= needed
        return left

    @invariant()
    def never_over_budget(self) -> None:
        """What is held is what the holders need, and there is as much."""
        left = self.free()
        used = self.limiter.used()
        assert all(count >= 0 for count in left.values())
        assert {R: TOTALS["r", None] - used.get(R, 0), S: TOTALS[S] - used.get(S, 0)} == left
        assert {key for key in self.claims if self.limiter.holds(key)} == self.holders

    @invariant()
    def never_stuck(self) -> None:
        """Whoever waits does not fit, or would keep the first of the line from what it needs."""
        left = self.free()
        fit = {key for key in self.line if fits(self.claims[key], left)}
        assert self.holders or not self.line
        assert fit != self.line or not self.line
        for key in fit:
            others = self.line - {key}
            assert any(self.claims[key].needs.keys() & self.claims[one].needs for one in others)


def fits(claim: Claim, left: dict[Resource, int]) -> bool:
    """Whether there is enough."""
    return all(needed <= left[resource] for resource, needed in claim.needs.items())


Limited.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLimited = Limited.TestCase


def turns(limiter: RateLimiter[int], keys: list[int], number: int) -> dict[int, int]:
    """Who had how many of so many turns, where each asks again as soon as its turn is over."""
    had = dict.fromkeys(keys, 0)
    running: list[int] = []
    for key in keys:
        limiter.ask(key)
    running += limiter.grant()
    for _ in range(number):
        key = running.pop(0)
        had[key] += 1
        limiter.give_back(key)
        limiter.ask(key)
        running += limiter.grant()
    for key in running:
        limiter.withdraw(key)
    return had


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.integers(20, 200))
def test_chances_are_inverse_to_priorities(priorities: list[int], number: int) -> None:
    """One of priority 2 has half the turns of one of priority 1; 0 counts as 1."""
    limiter: RateLimiter[int] = RateLimiter({("r", None): 1})
    group = (RateLimiterResource("r"),)
    for key, priority in enumerate(priorities):
        limiter.enter(key, claim_of(Group(group, priority), 0))

    had = turns(limiter, list(range(len(priorities))), number)

    weighted = [had[key] * max(priority, 1) for key, priority in enumerate(priorities)]
    assert max(weighted) - min(weighted) <= max(*priorities, 1) * 2


def test_who_was_away_has_no_credit() -> None:
    """An instance that comes late takes turns with the others, and does not catch up."""
    limiter: RateLimiter[int] = RateLimiter()
    for key in (1, 2):
        limiter.enter(key, Claim({R: 1}))
    turns(limiter, [1], 1000)

    had = turns(limiter, [1, 2], 10)

    assert abs(had[1] - had[2]) <= 1


def test_a_large_claim_is_not_overtaken_for_ever() -> None:
    """Small ones that overlap in time would never leave enough; the first in line keeps it."""
    limiter: RateLimiter[int] = RateLimiter()
    limiter.enter(0, Claim({R: 2}))
    for key in (1, 2, 3):
        limiter.enter(key, Claim({R: 1}))

    had = turns(limiter, [1, 2, 3, 0], 100)

    assert had[0] >= 20


def test_who_needs_nothing_of_it_goes_past_the_first_in_line() -> None:
    """What the first waits for is kept for it, and nothing else is."""
    limiter: RateLimiter[int] = RateLimiter(TOTALS)
    claims: list[dict[Resource, int]] = [{R: 3}, {R: 4}, {R: 1}, {S: 1}, {}]
    for key, needs in enumerate(claims):
        limiter.enter(key, Claim(needs))
        limiter.ask(key)

    assert limiter.grant() == [0, 3, 4]
    assert limiter.give_back(0)
    assert limiter.grant() == [1]


def test_nothing_is_kept_of_what_one_holds_who_waits_for_another_model() -> None:
    """The one that it waits for may stand behind, and would wait for it in turn."""
    limiter: RateLimiter[int] = RateLimiter({R: 2})
    for key, needed in ((1, 1), (2, 2), (3, 1)):
        limiter.enter(key, Claim({R: needed}))
    limiter.ask(1)
    limiter.grant()
    for key in (2, 3):
        limiter.ask(key)

    kept = limiter.grant()
    limiter.waits(1, 1)
    given = limiter.grant()

    assert (kept, given) == ([], [3])


def test_a_turn_that_was_not_used_is_no_turn() -> None:
    """Who found nothing to execute is before the others next time."""
    limiter: RateLimiter[int] = RateLimiter()
    for key in (1, 2):
        limiter.enter(key, Claim({R: 1}))
    limiter.ask(1)
    limiter.grant()
    limiter.ask(2)

    limiter.withdraw(1)
    second = limiter.grant()
    limiter.ask(1)
    limiter.give_back(2)
    limiter.ask(2)

    assert second == [2]
    assert limiter.grant() == [1]


# -- how much there is ---------------------------------------------------------------------------


def group(name: str = "r", count: int = 1, *, shared: bool = False) -> Group:
    """A group that needs one resource."""
    return Group((RateLimiterResource(name, shared, count),))


def test_without_a_word_there_is_as_much_as_anyone_needs() -> None:
    """On each device for itself, or for all together; who leaves is not counted any more."""
    limiter: RateLimiter[int] = RateLimiter()
    limiter.enter(1, claim_of(group(count=2), 0))
    limiter.enter(2, claim_of(group(count=5), 1))
    limiter.enter(3, claim_of(group("s", 3, shared=True), 0))

    before = [limiter.total(one) for one in (("r", 0), ("r", 1), ("s", None))]
    limiter.leave(2)

    assert before == [2, 5, 3]
    assert limiter.total(("r", 1)) == 0


def test_what_an_operator_gives_holds_for_a_device_or_for_each() -> None:
    """The name in any case; a device that is named wins; where all share it does not matter."""
    given_: dict[Resource, int] = {("r1", None): 4, ("r1", 1): 2, ("s", 7): 9}
    limiter: RateLimiter[int] = RateLimiter(given_)

    found = [limiter.total(one) for one in (("R1", 0), ("R1", 1), ("S", None))]

    assert found == [4, 2, 9]


def test_resources_that_are_named_twice_add_up() -> None:
    """One claim for each resource."""
    twice = Group((RateLimiterResource("r", False, 1), RateLimiterResource("r", False, 2)), 0)

    assert claim_of(twice, 3) == Claim({("r", 3): 3}, 1)
    assert claim_of(None, 3) == Claim()


def test_what_can_never_execute_is_refused() -> None:
    """In Triton's words, and nothing of it is entered."""
    limiter: RateLimiter[int] = RateLimiter({("r1", None): 1})

    with pytest.raises(InvalidArgument) as refused:
        limiter.enter(1, claim_of(group("R1", 4), 0))

    assert refused.value.message == (
        'Resource count for "R1" is limited to 1 which will prevent scheduling of one or more model'
        " instances, the minimum required count is 4"
    )
    assert not limiter.holds(1)


def test_a_resource_is_shared_by_all_or_of_each_device() -> None:
    """Not both; but once the one is gone the other may come."""
    limiter: RateLimiter[int] = RateLimiter()
    limiter.enter(1, claim_of(group(), 0))

    with pytest.raises(InvalidArgument, match='"r" is present as both global and device-specific'):
        limiter.enter(2, claim_of(group(shared=True), 0))
    limiter.leave(1)
    limiter.enter(2, claim_of(group(shared=True), 0))

    assert limiter.total(("r", None)) == 1
