"""A language model without numbers: what it computes for a token tells all the tokens before it.

It keeps a cache by slot as a real one does, and reads the cache through the block table: a block
that was given to another, overwritten, or found by the wrong prefix changes what comes out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.policy import make_policy
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import Row, StepPlan

VOCABULARY = 5
GREEDY = SamplingParams(temperature=0.0)


def mix(before: bytes, token: int, adapter: str) -> bytes:
    """What is kept for a token, after what was kept for the one before it."""
    return blake2b(before + token.to_bytes(2, "little") + adapter.encode(), digest_size=8).digest()


def choose(state: bytes) -> int:
    """The token that follows."""
    return state[0] % VOCABULARY


def expected(prompt: Iterable[int], count: int, adapter: str = "") -> list[int]:
    """What the model generates after a prompt, whatever runs beside it."""
    state = b""
    for token in prompt:
        state = mix(state, token, adapter)
    tokens: list[int] = []
    for _ in range(count):
        tokens.append(choose(state))
        state = mix(state, tokens[-1], adapter)
    return tokens


class FakeModel:
    """Computes plans; accepts proposed tokens as long as they are what it would have chosen."""

    def __init__(self, pool: BlockPool) -> None:
        self._size = pool.block_size
        self._cache = [b""] * pool.capacity
        # As a device has them: what follows each text, told or not.
        self._last: dict[Sequence, int] = {}

    def run(self, plan: StepPlan) -> list[list[int]]:
        """The new tokens of each row."""
        return [self._row(row) for row in plan.rows]

    def _row(self, row: Row) -> list[int]:
        sequence, states = row.sequence, []
        state = self._cache[self._slot(sequence, row.start - 1)] if row.start else b""
        for position, token in enumerate(self._tokens(row), row.start):
            state = mix(state, token, sequence.adapter)
            self._cache[self._slot(sequence, position)] = state
            states.append(state)
        if not row.samples:
            return []
        new: list[int] = []
        for state, guess in zip(
            states[-1 - row.drafts :], [*row.sequence.drafts[: row.drafts], None], strict=True
        ):
            new.append(choose(state))
            if new[-1] != guess:
                break
        self._last[sequence] = new[-1]
        return new

    def _tokens(self, row: Row) -> list[int]:
        if row.sequence.foreseen and row.start + row.count == len(row.sequence.tokens):
            return [*row.tokens[:-1], self._last[row.sequence]]
        return row.tokens

    def _slot(self, sequence: Sequence, position: int) -> int:
        return sequence.blocks[position // self._size] * self._size + position % self._size


@dataclass
class Engine:
    """The loop around a batcher, with a clock that is set by hand."""

    batcher: ContinuousBatcher
    model: FakeModel
    now: int = 0
    made: int = 0
    plans: list[StepPlan] = field(default_factory=list)
    propose: Callable[[Sequence], list[int]] | None = None

    def add(
        self,
        prompt: Iterable[int],
        max_tokens: int = 4,
        *,
        params: SamplingParams = GREEDY,
        priority: int = 0,
        tenant: str = "",
        salt: bytes = b"",
        adapter: str = "",
        deadline: int | None = None,
        ready: bool = True,
    ) -> Sequence:
        """A new sequence, accepted."""
        self.made += 1
        sequence = Sequence(
            self.made,
            list(prompt),
            params,
            max_tokens=max_tokens,
            arrived_ns=self.now,
            deadline_ns=deadline,
            priority=priority,
            tenant=tenant,
            salt=salt,
            adapter=adapter,
        )
        sequence.ready = ready
        self.batcher.add(sequence, self.now)
        return sequence

    def step(self) -> StepPlan:
        """Plan, compute, update; what has all its tokens is finished."""
        self.now += 1
        plan = self.batcher.plan(self.now)
        self.plans.append(plan)
        self.batcher.update(plan, self.model.run(plan))
        for row in plan.rows:
            sequence = row.sequence
            if sequence.phase is not Phase.RUNNING:
                continue
            if sequence.n_left <= 0:
                self.batcher.finish(sequence)
            elif self.propose is not None and row.samples:
                sequence.drafts = self.propose(sequence)
        return plan

    def run(self, steps: int = 1000) -> None:
        """Step until nothing is left."""
        for _ in range(steps):
            if not self.step().rows:
                break
        stats = self.batcher.stats()
        assert (stats.running, stats.waiting) == (0, 0), "it ran out of steps"

    @property
    def preempted(self) -> list[Sequence]:
        """Who had to give way so far, one by one."""
        return [sequence for plan in self.plans for sequence in plan.preempted]


def engine(
    blocks: int = 64,
    size: int = 4,
    *,
    seqs: int = 8,
    tokens: int = 64,
    cap: int = 0,
    policy: str = "fcfs",
    caching: bool = True,
    watermark: float = 0.0,
    queued: int = 0,
    queued_tokens: int = 0,
    length: int = 0,
) -> Engine:
    """An engine of this size."""
    pool = BlockPool(blocks, size, caching)
    limits = Limits(
        max_num_seqs=seqs,
        max_batched_tokens=tokens,
        long_prefill_cap=cap,
        max_queued_requests=queued,
        max_queued_tokens=queued_tokens,
        max_model_len=length,
        watermark=watermark,
    )
    return Engine(ContinuousBatcher(pool, limits, make_policy(policy)), FakeModel(pool))


def generated(sequence: Sequence) -> list[int]:
    """What is known to follow the prompt."""
    return sequence.tokens[sequence.n_prompt :][: sequence.n_generated]


def right(sequence: Sequence) -> list[int]:
    """What should follow the prompt."""
    prompt = sequence.tokens[: sequence.n_prompt]
    return expected(prompt, sequence.n_generated, sequence.adapter)
