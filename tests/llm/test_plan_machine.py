"""Block pool, prefix cache and batcher under any order of events: the invariants of the engine.

References, free list and shared blocks; nobody writes what another reads; the budget; progress;
all comes back; and the text of a sequence depends on nothing but its prompt and adapter.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.llm.plan_fakes import FakeModel, engine, expected, generated, right

from penstock_runtime.errors import InvalidArgument, Unavailable
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import StepPlan

PREFIXES = [[], [1] * 8, [1] * 4 + [2] * 9, [3] * 5]
PARAMS = [
    SamplingParams(),
    SamplingParams(),
    SamplingParams(skip_reading_prefix_cache=True),
    SamplingParams(prompt_logprobs=1),
]


class PlanMachine(RuleBasedStateMachine):
    """Callers, proposers, steps and the clock in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.live: list[Sequence] = []
        self.ended: list[Sequence] = []
        self.under_way: StepPlan | None = None

    @initialize(
        blocks=st.integers(4, 12),
        size=st.sampled_from([2, 4]),
        seqs=st.integers(1, 5),
        tokens=st.sampled_from([1, 4, 8, 40]),
        cap=st.sampled_from([0, 1, 5]),
        policy=st.sampled_from(["fcfs", "priority", "vtc"]),
        caching=st.sampled_from([True, True, False]),
        watermark=st.sampled_from([0.0, 0.2]),
    )
    def start(
        self,
        blocks: int,
        size: int,
        seqs: int,
        tokens: int,
        cap: int,
        policy: str,
        caching: bool,
        watermark: float,
    ) -> None:
        self.served = engine(
            blocks,
            size,
            seqs=seqs,
            tokens=tokens,
            cap=cap,
            policy=policy,
            caching=caching,
            watermark=watermark,
            queued=6,
        )
        self.batcher, self.tokens = self.served.batcher, tokens
        self.model: FakeModel = self.served.model

    @rule(
        siblings=st.integers(1, 3),
        prefix=st.sampled_from(PREFIXES),
        rest=st.lists(st.integers(0, 2), min_size=1, max_size=6),
        max_tokens=st.integers(1, 14),
        params=st.sampled_from(PARAMS),
        who=st.sampled_from(["", "", "a", "b"]),
        priority=st.integers(0, 2),
        patience=st.sampled_from([None, None, None, 5, 30]),
        ready=st.sampled_from([True, True, True, False]),
    )
    def arrive(
        self,
        siblings: int,
        prefix: list[int],
        rest: list[int],
        max_tokens: int,
        params: SamplingParams,
        who: str,
        priority: int,
        patience: int | None,
        ready: bool,
    ) -> None:
        now = self.served.now
        for _ in range(siblings):
            self.add(
                Sequence(
                    len(self.live) + len(self.ended),
                    prefix + rest,
                    params,
                    max_tokens=max_tokens,
                    priority=priority,
                    tenant=who,
                    salt=b"s" if who == "a" else b"",
                    adapter=who if who == "b" else "",
                    deadline_ns=None if patience is None else now + patience,
                ),
                ready,
            )

    def add(self, sequence: Sequence, ready: bool) -> None:
        sequence.ready = ready
        total, capacity = sequence.n_prompt + sequence.max_tokens, self.batcher.pool.capacity
        try:
            self.batcher.add(sequence, self.served.now)
        except InvalidArgument:
            assert total > capacity
        except Unavailable:
            assert self.batcher.stats().waiting >= 6
        else:
            assert total <= capacity
            self.live.append(sequence)

    @rule(at=st.integers(0, 99), right_ones=st.integers(0, 3), wrong_ones=st.integers(0, 2))
    def propose(self, at: int, right_ones: int, wrong_ones: int) -> None:
        if self.under_way is not None or not self.live:
            return
        sequence = self.live[at % len(self.live)]
        if sequence.phase is Phase.RUNNING:
            count = sequence.n_generated + right_ones + wrong_ones
            prompt = sequence.tokens[: sequence.n_prompt]
            true = expected(prompt, count, sequence.adapter)[sequence.n_generated :]
            sequence.drafts = true[:right_ones] + [(t + 1) % 5 for t in true[right_ones:]]

    @rule(at=st.integers(0, 99))
    def cancel(self, at: int) -> None:
        if self.live and at % 3 == 0:
            self.end(self.live[at % len(self.live)])

    @precondition(lambda self: self.under_way is None)
    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.plan(passes=1)
            self.compute(carried_out=True)
            self.all_holds()

    @rule()
    def compile(self) -> None:
        for sequence in self.live:
            sequence.ready = True

    @precondition(lambda self: self.under_way is None)
    @rule(passes=st.sampled_from([1, 1, 3, 3, 6_000_000_000]))
    def plan(self, passes: int) -> None:
        self.served.now += passes
        for late in self.batcher.expired(self.served.now):
            self.end(late)
        plan = self.batcher.plan(self.served.now)
        self.under_way = plan

        assert plan.n_tokens <= self.tokens
        assert all(row.decodes for row in plan.rows[: plan.n_decodes])
        assert not plan.stuck, "what was accepted fits"
        assert plan.rows or not any(sequence.ready for sequence in self.live), "no progress"
        assert len({row.sequence for row in plan.rows}) == len(plan.rows)
        for row in plan.rows:
            assert row.sequence.phase is Phase.RUNNING
            assert row.start == row.sequence.n_computed
            assert row.count >= 1
            assert row.drafts < max(row.sequence.n_left, 1)
            self.may_write(row.sequence, row.start, row.start + row.count)

    def may_write(self, sequence: Sequence, start: int, stop: int) -> None:
        pool = self.batcher.pool
        for position in range(start, stop):
            block = sequence.blocks[position // pool.block_size]
            assert pool.ref[block] == 1, "a shared block is written"
            assert not pool.is_published(block), "a block is written that can be found"

    @precondition(lambda self: self.under_way is not None)
    @rule(carried_out=st.sampled_from([True, True, True, True, False]))
    def compute(self, carried_out: bool) -> None:
        plan, self.under_way = self.under_way, None
        assert plan is not None
        if not carried_out:
            return
        alive = [row for row in plan.rows if row.sequence.phase is Phase.RUNNING]
        new = dict(zip(alive, self.model.run(StepPlan(tuple(alive))), strict=True))

        self.batcher.update(plan, [new.get(row, []) for row in plan.rows])

        for row in alive:
            if row.sequence.n_left == 0:
                self.end(row.sequence)

    def end(self, sequence: Sequence) -> None:
        self.batcher.finish(sequence)
        self.live.remove(sequence)
        self.ended.append(sequence)

    @invariant()
    def all_holds(self) -> None:
        self.batcher.check()
        size, pool = self.batcher.pool.block_size, self.batcher.pool
        for sequence in self.live:
            full = sequence.n_computed // size
            assert all(pool.ref[block] == 1 for block in sequence.blocks[full:])
            assert generated(sequence) == right(sequence)
        if not self.live:
            assert pool.free == pool.n_blocks

    def serve_on(self) -> None:
        """One step."""
        self.plan(passes=1)
        self.compute(carried_out=True)

    def come_down(self) -> None:
        """Take in what is still on its way: nothing."""

    def teardown(self) -> None:
        """Whatever is left is served to its end."""
        if not hasattr(self, "served"):
            return
        if self.under_way is not None:
            self.compute(carried_out=True)
        self.compile()
        for _ in range(400):
            if not self.live:
                break
            self.serve_on()
        self.come_down()
        assert not self.live, "somebody starves"
        assert self.batcher.pool.free == self.batcher.pool.n_blocks
        assert all(generated(sequence) == right(sequence) for sequence in self.ended)
        self.batcher.check()


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
