"""Laws of the policies: who begins first, and who gives way."""

from collections import Counter
from itertools import count

import pytest
from tests.llm.plan_fakes import Engine, engine, generated, right

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.policy import PATIENCE_NS, Priority, make_policy
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.virtual_clock import TenantClocks, VirtualTokenClock


def began(served: Engine) -> list[int]:
    """Whose first tokens were computed, in this order."""
    order = dict.fromkeys(row.sequence.id for plan in served.plans for row in plan.rows)
    return list(order)


def test_an_unknown_policy_is_refused_by_name() -> None:
    """The message says which there are."""
    with pytest.raises(InvalidArgument, match="policy is 'lottery', expected 'fcfs', 'priority'"):
        make_policy("lottery")


def test_first_come_is_first_served_whatever_its_priority() -> None:
    """Only the order of arrival counts."""
    served = engine(seqs=1)
    for priority in (2, 0, 1):
        served.add([1], priority=priority)

    served.run()

    assert began(served) == [1, 2, 3]


def test_the_lowest_number_is_served_first_and_equals_by_arrival() -> None:
    """Priorities order those who wait."""
    served = engine(seqs=1, policy="priority")
    for priority in (1, 2, 0, 1, 0):
        served.add([1], priority=priority)

    served.run()

    assert began(served) == [3, 5, 1, 4, 2]


def test_a_better_one_takes_the_slot_of_the_worst_that_runs() -> None:
    """In the very next step; and the other ends right, later."""
    served = engine(seqs=2, policy="priority")
    worst, bad = served.add([1], 9, priority=5), served.add([2], 9, priority=4)
    served.step()
    good = served.add([3, 4], priority=1)

    plan = served.step()

    assert plan.preempted == (worst,)
    assert {row.sequence for row in plan.rows} == {bad, good}
    served.run()
    assert all(generated(one) == right(one) for one in (worst, bad, good))


def test_a_better_one_takes_as_many_blocks_as_it_needs_and_no_more() -> None:
    """Of those that run, the worst and newest give way until it fits."""
    served = engine(blocks=6, policy="priority")
    kept, second, first = (served.add([at] * 7, 1, priority=3) for at in range(3))
    for sequence in (kept, second, first):
        sequence.max_tokens = 2
    served.step()

    plan_after = served.add([4] * 15, 1, priority=0)
    plan = served.step()

    assert plan.preempted == (first, second)
    assert {row.sequence for row in plan.rows} == {kept, plan_after}
    served.batcher.check()


def test_nobody_gives_way_to_one_that_would_not_fit_all_the_same() -> None:
    """Whose place is worth nothing keeps it."""
    served = engine(blocks=6, policy="priority")
    low, high = served.add([1] * 3, 9, priority=5), served.add([2] * 15, 5, priority=0)
    served.step()

    wide = served.add([3] * 11, 1, priority=1)
    plan = served.step()

    assert plan.preempted == ()
    assert {row.sequence for row in plan.rows} == {low, high}
    assert wide.phase is Phase.WAITING


def test_a_block_that_others_hold_is_not_counted_as_won() -> None:
    """Of two that share a prefix, one alone would leave too little."""
    served = engine(blocks=6, policy="priority")
    one, two = (served.add([1] * 8 + [at], 3, priority=3) for at in (2, 3))
    for _ in range(2):
        served.step()
    assert served.batcher.stats().free_blocks == 2

    high = served.add([4] * 15, 1, priority=0)
    plan = served.step()

    assert plan.preempted == (two, one)
    assert [row.sequence for row in plan.rows] == [high]


def test_a_prefix_that_is_found_is_not_counted_as_won() -> None:
    """It is held by the one that comes as it was by the one that would have given way."""
    served = engine(blocks=7, policy="priority")
    served.add([2] * 5, 3, priority=0)
    low = served.add([1] * 8 + [2], 3, priority=3)
    served.step()

    wide = served.add([1] * 8 + [3] * 15, 1, priority=1)

    assert served.step().preempted == ()
    assert (low.phase, wide.phase) == (Phase.RUNNING, Phase.WAITING)


def test_equals_do_not_take_places_from_each_other() -> None:
    """Who runs goes on, though one of its level waits."""
    served = engine(seqs=1, policy="priority")
    served.add([1], 5)
    served.step()
    served.add([2], 5)

    assert served.step().preempted == ()


def test_who_is_preempted_by_better_ones_without_end_is_served_all_the_same() -> None:
    """After its patience it goes first and keeps its place."""
    served = engine(seqs=1, policy="priority")
    poor = served.add([1], 4, priority=9)
    served.step()
    for at in count():
        served.add([2, at % 5], 2, priority=0)
        served.now += PATIENCE_NS // 20
        served.step()
        if poor.phase is Phase.FINISHED:
            break

        assert at < 40, "it starves"

    assert poor.preemptions == 1
    assert generated(poor) == right(poor)


def test_a_policy_keeps_nothing_of_what_has_ended() -> None:
    """Whether it waited, ran, or had been promoted."""
    served = engine(seqs=1, policy="priority")
    sequences = [served.add([1], 9, priority=3 - at) for at in range(3)]
    served.step()
    sequences.append(served.add([1], 9, priority=0))
    served.step()
    served.now += 2 * PATIENCE_NS
    served.step()
    for sequence in sequences:
        served.batcher.finish(sequence)

    policy = served.batcher.policy

    assert isinstance(policy, Priority)
    assert (policy._numbers, policy._preempted, policy._promoted) == ({}, {}, set())
    assert list(policy.candidates()) == []


def tokens_by_tenant(served: Engine, steps: int) -> Counter[str]:
    """What each tenant got in so many steps."""
    got: Counter[str] = Counter()
    for _ in range(steps):
        for row in served.step().rows:
            if row.samples:
                got[row.sequence.tenant] += 1
    return got


def test_ten_times_the_load_gets_the_same_tokens_under_the_virtual_clock() -> None:
    """Two tenants, one with ten times as much waiting: equal shares within a tenth."""
    shares = {}
    for policy in ("vtc", "fcfs"):
        served = engine(blocks=256, size=8, seqs=8, tokens=64, policy=policy)
        for at in range(600):
            served.add([at % 5] * 6, 12, tenant="loud")
            if at % 10 == 0:
                served.add([at % 7 % 5] * 6, 12, tenant="quiet")
        got = tokens_by_tenant(served, 160)
        shares[policy] = got["loud"] / got["quiet"]

    assert 0.9 <= shares["vtc"] <= 1.1
    assert shares["fcfs"] > 5


def test_a_tenant_that_comes_back_does_not_get_what_it_left_unused() -> None:
    """It starts level with those that wait."""
    served = engine(seqs=4, policy="vtc")
    for _ in range(100):
        served.add([1] * 4, 8, tenant="steady")
    tokens_by_tenant(served, 60)
    for _ in range(100):
        served.add([2] * 4, 8, tenant="back")

    got = tokens_by_tenant(served, 120)

    assert 0.8 <= got["steady"] / got["back"] <= 1.25


def test_a_token_of_an_answer_costs_more_than_one_of_a_prompt() -> None:
    """One of the answer takes a step; those of a prompt share one. What was found is free."""
    served = engine(policy="vtc")
    served.add([1] * 9, 3, tenant="a")
    served.run()
    served.add([1] * 9, 1, tenant="b")
    served.run()
    policy = served.batcher.policy

    assert isinstance(policy, VirtualTokenClock)
    assert policy.clocks.read("a") == 9 + 2 * 3
    assert policy.clocks.read("b") == 15 + 1 + 2


def test_priorities_order_what_one_tenant_has_waiting_and_nothing_else() -> None:
    """Nobody gets ahead of another tenant by calling its own requests urgent."""
    served = engine(seqs=1, policy="vtc")
    served.add([1], 1, tenant="a", priority=5)
    served.add([1], 1, tenant="a", priority=0)
    served.add([1], 1, tenant="b", priority=9)

    served.run()

    assert began(served) == [2, 3, 1]


def test_the_tenant_that_has_got_most_gives_way() -> None:
    """Where blocks run out, though its sequence came first."""
    served = engine(blocks=5, policy="vtc", caching=False)
    rich, poor = served.add([1] * 7, 9, tenant="rich"), served.add([2] * 3, 9, tenant="poor")
    while not served.preempted:
        served.step()

    assert served.preempted == [rich]
    served.run()
    assert all(generated(one) == right(one) for one in (rich, poor))


def test_of_tenants_that_have_nothing_only_so_many_are_remembered() -> None:
    """A flood of names does not fill the memory."""
    clocks = TenantClocks(most_idle=3)
    for at in range(10):
        clocks.enter(str(at))
        clocks.advance(str(at), 7)
        clocks.leave(str(at))

    assert len(clocks) == 3
    assert (clocks.read("0"), clocks.read("9")) == (0, 7)


def test_who_is_not_ready_holds_up_neither_its_tenant_nor_others() -> None:
    """Under the virtual clock as under others."""
    served = engine(policy="vtc", tokens=64)
    waits: list[Sequence] = [served.add([1], tenant="a", ready=False)]
    served.add([2], tenant="a")
    served.add([3], tenant="b")

    plan = served.step()

    assert {row.sequence.id for row in plan.rows} == {2, 3}
    assert waits[0].phase is Phase.WAITING
