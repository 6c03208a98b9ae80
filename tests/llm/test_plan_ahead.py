"""Plans that are made while the last is computed: the same texts, and nothing is lost or kept."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.llm.plan_fakes import engine, expected, generated
from tests.llm.test_plan_machine import PlanMachine

from penstock_runtime.llm.sequence import Phase
from penstock_runtime.llm.step import Row, StepPlan

Results = dict[Row, list[int]]


class AheadMachine(PlanMachine):
    """A device that computes plans in order, one of which is on its way while the next is made."""

    def __init__(self) -> None:
        super().__init__()
        self.flying: tuple[StepPlan, Results] | None = None

    @precondition(lambda _: False)
    @rule()
    def propose(self) -> None:
        """Guesses follow a token that is known."""

    @precondition(lambda self: self.under_way is None and self.flying is None)
    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        super().go_on(steps)

    @precondition(lambda self: self.under_way is None and self.flying is None)
    @rule(passes=st.sampled_from([1, 3]))
    def plan(self, passes: int) -> None:
        super().plan(passes)

    @precondition(lambda self: self.under_way is None)
    @rule(
        passes=st.sampled_from([1, 1, 3, 6_000_000_000]),
        steps=st.integers(1, 12),
        lost=st.sampled_from([False] * 5 + [True]),
    )
    def fly_on(self, passes: int, steps: int, lost: bool) -> None:
        """Steps, each of which is launched before the last has landed; the last may be lost."""
        for left in reversed(range(steps)):
            self.fly(passes, lost=lost and not left)
            self.all_holds()

    def fly(self, passes: int, lost: bool = False) -> None:
        self.served.now += passes
        for late in self.batcher.expired(self.served.now):
            self.end(late)
        if self.flying is not None:
            self.batcher.foresee(self.flying[0])
            self.batcher.check()
        plan = self.batcher.plan(self.served.now)
        assert plan.n_tokens <= self.tokens
        assert all(row.sequence.n_left > 0 for row in plan.rows if row.samples)
        for row in plan.rows:
            self.may_write(row.sequence, row.start, row.start + row.count)
        launched = plan, dict(zip(plan.rows, self.model.run(plan), strict=True))
        if self.flying is not None and lost:
            self.batcher.take_back(self.flying[0])
            self.flying = None
            return
        self.land()
        if plan.rows:
            self.flying = launched

    @precondition(lambda self: self.flying is not None)
    @rule()
    def land(self) -> None:
        """What was computed is told, foreseen or not."""
        if self.flying is None:
            return
        (plan, results), self.flying = self.flying, None
        alive = [row.sequence for row in plan.rows if row.sequence.phase is not Phase.FINISHED]
        self.batcher.update(plan, [results[row] for row in plan.rows])
        for sequence in alive:
            if not sequence.max_tokens - sequence.n_generated:
                self.end(sequence)

    def serve_on(self) -> None:
        """All come to their end this way as well."""
        self.fly(passes=1)

    def come_down(self) -> None:
        """The last step."""
        self.land()


TestAhead = AheadMachine.TestCase
TestAhead.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)


def test_a_sequence_goes_on_before_its_token_is_known() -> None:
    """Its next row begins where the token on its way will stand; what comes is the same text."""
    served = engine()
    sequence = served.add([1, 2, 3], max_tokens=3)
    first = served.batcher.plan(1)
    told = served.model.run(first)

    served.batcher.foresee(first)
    second = served.batcher.plan(2)
    more = served.model.run(second)
    served.batcher.update(first, told)
    served.batcher.update(second, more)

    assert [(row.start, row.count, row.samples) for row in second.rows] == [(3, 1, True)]
    assert generated(sequence) == expected([1, 2, 3], 2)


def test_nothing_is_planned_behind_the_last_token() -> None:
    """The one on its way is the last that it may have."""
    served = engine()
    served.add([1, 2, 3], max_tokens=1)
    first = served.batcher.plan(1)

    served.batcher.foresee(first)

    assert not served.batcher.plan(2).rows


def test_who_gives_way_to_others_keeps_the_token_on_its_way() -> None:
    """Two texts in a pool that has room for one: the newer lost its blocks, and no token."""
    served = engine(blocks=4, size=2, seqs=2)
    texts = [served.add([1, 2], max_tokens=6), served.add([2, 1], max_tokens=5)]
    flying: tuple[StepPlan, list[list[int]]] | None = None
    preempted = 0
    for now in range(1, 30):
        if flying is not None:
            served.batcher.foresee(flying[0])
        plan = served.batcher.plan(now)
        preempted += sum(sequence.foreseen for sequence in plan.preempted)
        launched = plan, served.model.run(plan)
        if flying is not None:
            served.batcher.update(*flying)
            for row in flying[0].rows:
                if row.sequence.n_generated == row.sequence.max_tokens:
                    served.batcher.finish(row.sequence)
        served.batcher.check()
        flying = launched if plan.rows else None

    assert preempted
    assert [generated(text) for text in texts] == [expected([1, 2], 6), expected([2, 1], 5)]
    assert served.batcher.pool.free == served.batcher.pool.n_blocks


def test_what_never_came_is_as_if_it_had_never_been_planned() -> None:
    """Also of one that has given way meanwhile: it is computed again, with what was known."""
    served = engine(blocks=4, size=2, seqs=2)
    texts = [served.add([1, 2], max_tokens=6), served.add([2, 1], max_tokens=5)]
    while True:
        plan = served.batcher.plan(1)
        served.batcher.foresee(plan)
        known = [generated(text) for text in texts]
        if served.batcher.plan(2).preempted:
            break
        served.batcher.update(plan, served.model.run(plan))

    served.batcher.take_back(plan)
    served.batcher.check()

    assert [generated(text) for text in texts] == known
    served.run()
    assert [generated(text) for text in texts] == [expected([1, 2], 6), expected([2, 1], 5)]
