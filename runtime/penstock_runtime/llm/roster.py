"""Which sequences of an engine run and which wait, and the blocks that those who run hold.

Pure. It carries out what the batcher decides, and keeps what always holds between steps.
"""

from collections.abc import Container
from dataclasses import dataclass

from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.policy import Policy
from penstock_runtime.llm.prefix import PrefixCache, reads_cache
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step_draft import StepDraft


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """The state of a batcher. `prefix_queries` and `prefix_hits` count tokens of prompts that were
    looked up and found, `waiting_tokens` those of the sequences that wait.
    """

    running: int
    waiting: int
    free_blocks: int
    n_blocks: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    waiting_tokens: int


class Roster:
    """The sequences of one engine: `running` in the order in which they began."""

    def __init__(self, pool: BlockPool, policy: Policy) -> None:
        self.pool = pool
        self.policy = policy
        self.prefix = PrefixCache(pool)
        self.running: dict[Sequence, None] = {}
        self.waiting: set[Sequence] = set()
        self.waiting_tokens = 0
        self._queries = self._hits = self._preemptions = 0

    def enter(self, sequence: Sequence) -> None:
        """A new sequence begins to wait."""
        self.policy.enter(sequence)
        self._wait(sequence)

    def leave(self, sequence: Sequence) -> bool:
        """A sequence ended, wherever it is: its blocks are free at once. False if it had ended."""
        if sequence in self.running:
            del self.running[sequence]
        elif sequence in self.waiting:
            self._wait_no_more(sequence)
        else:
            return False
        self.policy.leave(sequence)
        self.prefix.forget(sequence)
        # Nobody gets them before the next plan: the step that is computed now, in another thread,
        # still goes by what the sequence had.
        self.pool.release(sequence.blocks)
        return True

    def begin(self, sequence: Sequence, found: list[int], now: int) -> None:
        """A sequence that waits runs from now on, with the blocks that were found for it."""
        pool = self.pool
        self._wait_no_more(sequence)
        self.policy.take(sequence)
        # Held first: to make room, those that were found might be taken.
        pool.share(found)
        lacking = pool.blocks_for(len(sequence.tokens)) - len(found)
        sequence.blocks = found + pool.allocate(lacking)
        sequence.n_computed = len(found) * pool.block_size
        sequence.phase = Phase.RUNNING
        self.prefix.begin(sequence, len(found))
        self.running[sequence] = None
        if not sequence.preemptions:
            self._begin_first(sequence, now)

    def _begin_first(self, sequence: Sequence, now: int) -> None:
        sequence.planned_ns = now
        sequence.cached_tokens = sequence.n_computed
        if self.pool.caching and reads_cache(sequence):
            self._queries += sequence.n_prompt
            self._hits += sequence.n_computed
        if self.policy.charges:
            self.policy.charge(sequence, sequence.n_prompt - sequence.n_computed, 0)

    def grow(self, sequence: Sequence, tokens: int, draft: StepDraft) -> bool:
        """Blocks for so many tokens, from whoever is last in rank if too few are free; False where
        that is the sequence itself.
        """
        lacking = self.pool.blocks_for(tokens) - len(sequence.blocks)
        while lacking > self.pool.free:
            if len(self.running) == 1:
                draft.stuck.append(sequence)
                return False
            victim = max(self.running, key=self.policy.rank)
            self.preempt(victim, draft)
            if victim is sequence:
                return False
        sequence.blocks += self.pool.allocate(lacking)
        return True

    def preempt(self, sequence: Sequence, draft: StepDraft) -> None:
        """Its blocks go to others; its tokens are kept, to be computed again."""
        del self.running[sequence]
        self.prefix.stop(sequence)
        self._give_back(sequence)
        sequence.preemptions += 1
        sequence.phase = Phase.WAITING
        self.policy.back(sequence, draft.now)
        self._wait(sequence)
        self._preemptions += 1
        draft.preempted.append(sequence)

    def learn(self, sequence: Sequence, tokens: list[int]) -> None:
        """What follows its text, in place of the token that was foreseen."""
        before = len(sequence.tokens)
        del sequence.tokens[before - sequence.foreseen :]
        sequence.foreseen = 0
        sequence.tokens += tokens
        if sequence in self.waiting:
            self.waiting_tokens += len(sequence.tokens) - before

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.drafts = []
        sequence.n_computed = 0

    def _wait(self, sequence: Sequence) -> None:
        self.waiting.add(sequence)
        self.waiting_tokens += len(sequence.tokens)

    def _wait_no_more(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        self.waiting_tokens -= len(sequence.tokens)

    # -- what others ask -------------------------------------------------------------------------

    def stats(self) -> BatcherStats:
        """How many run and wait, and what was found, lost and is free."""
        return BatcherStats(
            running=len(self.running),
            waiting=len(self.waiting),
            free_blocks=self.pool.free,
            n_blocks=self.pool.n_blocks,
            prefix_queries=self._queries,
            prefix_hits=self._hits,
            preemptions=self._preemptions,
            waiting_tokens=self.waiting_tokens,
        )

    def check(self, ahead: Container[Sequence] = ()) -> None:
        """Assert what always holds between steps: for tests, and for debugging. What those `ahead`
        are foreseen to have computed is not found by others yet.
        """
        self.pool.check([sequence.blocks for sequence in self.running])
        self.prefix.check()
        assert self.waiting_tokens == sum(len(sequence.tokens) for sequence in self.waiting)
        for sequence in self.waiting:
            assert sequence.phase is Phase.WAITING, f"{sequence!r} waits"
            assert not sequence.blocks, f"{sequence!r} waits and holds blocks"
        for sequence in self.running:
            self._check_table(sequence, sequence in ahead)

    def _check_table(self, sequence: Sequence, ahead: bool) -> None:
        pool, full = self.pool, sequence.n_computed // self.pool.block_size
        assert sequence.phase is Phase.RUNNING, f"{sequence!r} runs"
        assert sequence.n_computed <= len(sequence.tokens), f"{sequence!r} computed too much"
        assert sequence.n_computed <= len(sequence.blocks) * pool.block_size, f"{sequence!r} spills"
        known = len(sequence.hashes)
        assert known == (full if pool.caching else 0) or (ahead and known < full), (
            f"{sequence!r} has {known} hashes"
        )
        assert ahead or not sequence.foreseen, f"{sequence!r} waits for a token that never comes"
        for block in sequence.blocks[known if pool.caching else full :]:
            assert pool.ref[block] == 1, f"block {block}, which {sequence!r} writes, is shared"
            assert not pool.is_published(block), f"block {block} is found before it is full"

    def __repr__(self) -> str:
        return f"<Roster {len(self.running)} run, {len(self.waiting)} wait, {self.pool!r}>"
