"""Decides what the next step of a language model computes: tokens to catch up, and no phases.

Every sequence has tokens, and keys and values for some of them; a step computes the next ones of
as many sequences as its budget holds: those that generate first, then the rest of prompts, then
new ones. Where blocks run out, the last in rank gives its own back and is computed again later.

Pure: no clock, thread, model or device; the engine's thread calls it.
"""

from collections.abc import Sequence as Items

from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.admission import Limits, Queue, never_fits, queue_full, too_late
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.deadlines import Deadlines
from penstock_runtime.llm.outcomes import Outcomes
from penstock_runtime.llm.policy import Policy
from penstock_runtime.llm.room import Room
from penstock_runtime.llm.roster import BatcherStats, Roster
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import Row, StepPlan
from penstock_runtime.llm.step_draft import StepDraft

# So many may wait for blocks that others compute just now before those behind them wait as well.
MOST_WAITING_FOR_PREFIX = 64


class ContinuousBatcher:
    """The sequences of one engine, and the blocks of its pool that they hold."""

    def __init__(self, pool: BlockPool, limits: Limits, policy: Policy) -> None:
        self.pool = pool
        self.limits = limits
        self.policy = policy
        self._roster = Roster(pool, policy)
        self._room = Room(pool, limits)
        self._outcomes = Outcomes(self._roster)
        self._deadlines = Deadlines()
        self._cap = limits.long_prefill_cap or limits.max_batched_tokens

    @property
    def running(self) -> Items[Sequence]:
        """The sequences that run, those first that began first."""
        return list(self._roster.running)

    @property
    def sequences(self) -> Items[Sequence]:
        """All sequences, those that run before those that wait."""
        return [*self._roster.running, *self._roster.waiting]

    # -- in and out ------------------------------------------------------------------------------

    def add(self, sequence: Sequence, now: int, rate: float = 0.0) -> None:
        """Accept a sequence, or raise the error that refuses it. `rate` is how many tokens a second
        the engine computes, where that is known.
        """
        self.add_all((sequence,), now, rate)

    def add_all(self, sequences: Items[Sequence], now: int, rate: float = 0.0) -> None:
        """Accept the sequences of one request, or raise the error that refuses them all."""
        queue = Queue(len(self._roster.waiting), self._roster.waiting_tokens, rate)
        for sequence in sequences:
            error = never_fits(sequence, self.limits, self.pool.capacity)
            if error is not None:
                raise error
        refusal = queue_full(sequences, self.limits, queue) or self._too_late(sequences, now, rate)
        if refusal is not None:
            raise refusal
        for sequence in sequences:
            self._roster.enter(sequence)
            self._deadlines.watch(sequence)

    def _too_late(self, sequences: Items[Sequence], now: int, rate: float) -> PenstockError | None:
        for sequence in sequences:
            if sequence.deadline_ns is None:
                continue
            ahead = self.policy.ahead(sequence) if rate else 0
            error = too_late(sequence, now, ahead, rate)
            if error is not None:
                return error
        return None

    def finish(self, sequence: Sequence) -> None:
        """A sequence ended, wherever it is: its blocks are free at once. Again is no harm."""
        known = self._roster.leave(sequence)
        sequence.phase = Phase.FINISHED
        if known:
            self._deadlines.forget(sequence)

    def expired(self, now: int) -> list[Sequence]:
        """The sequences whose deadline is over, each told once; they are to be finished."""
        return self._deadlines.passed(now)

    def next_deadline(self) -> int | None:
        """When `expired` has something to tell; None for never."""
        return self._deadlines.next()

    # -- a step ----------------------------------------------------------------------------------

    def plan(self, now: int) -> StepPlan:
        """What to compute next. Nothing is lost where a plan is not carried out."""
        self.policy.tick(now)
        draft = StepDraft(now, self.limits.max_batched_tokens)
        if self.policy.preempts and self._roster.waiting and self._roster.running:
            self._admit_by_rank(draft)
        guessing, prefills = self._plan_decodes(draft)
        if guessing:
            self._plan_guesses(draft, guessing, bool(prefills))
        if prefills:
            self._plan_prefills(draft, prefills)
        if self._roster.waiting and not draft.preempted and not draft.stuck:
            self._admit(draft)
        return draft.plan()

    def foresee(self, plan: StepPlan) -> None:
        """A plan is on its way: from now on plans are made as if it were computed. At most one is,
        without drafts; `update` or `take_back` ends it.
        """
        self._outcomes.foresee(plan)

    def take_back(self, plan: StepPlan) -> None:
        """What was foreseen did not come: the plan is as good as never made."""
        self._outcomes.take_back(plan)

    def update(self, plan: StepPlan, tokens: Items[list[int]]) -> None:
        """A plan was computed; `tokens` are those that were newly accepted, row by row: none where
        a row does not sample, at least one where it does.
        """
        self._outcomes.update(plan, tokens)

    # -- those that run --------------------------------------------------------------------------

    def _plan_decodes(self, draft: StepDraft) -> tuple[list[Sequence], list[Sequence]]:
        """A token for each that generates; those of them with proposed tokens are given back, and
        so are those that have more to catch up.
        """
        guessing: list[Sequence] = []
        prefills: list[Sequence] = []
        ones, size, running = draft.ones, self.pool.block_size, Phase.RUNNING
        for sequence in list(self._roster.running):
            # Who comes later may have had to give way to one before.
            if sequence.phase is not running:
                continue
            computed = sequence.n_computed
            left = len(sequence.tokens) - computed
            if left != 1 or computed < sequence.n_prompt:
                if left:
                    prefills.append(sequence)
            elif sequence.foreseen and sequence.n_left < 1:
                # The token on its way is its last.
                continue
            elif computed < len(sequence.blocks) * size or self._roster.grow(
                sequence, computed + 1, draft
            ):
                if sequence.drafts:
                    guessing.append(sequence)
                else:
                    ones.append(Row(sequence, computed, 1, 0, 1, True))
        draft.budget -= len(ones) + len(guessing)
        return guessing, prefills

    def _plan_guesses(self, draft: StepDraft, guessing: Items[Sequence], prefills: bool) -> None:
        """Tokens that generate, each with as many proposed ones as there is room for: guesses take
        no blocks from others, and half of the budget at most if others have tokens to compute.
        """
        allowance = draft.budget
        if prefills or (self._roster.waiting and len(self._roster.running) < self._room.slots):
            allowance //= 2
        for sequence in guessing:
            if sequence.phase is not Phase.RUNNING:
                continue
            count = self._fit_drafts(sequence, sequence.n_computed + 1, allowance)
            allowance -= count
            draft.budget -= count
            draft.put(sequence, sequence.n_computed, 1)

    def _plan_prefills(self, draft: StepDraft, prefills: list[Sequence]) -> None:
        """The rest of prompts, and of what is computed again."""
        if len(prefills) > 1:
            prefills.sort(key=self.policy.rank)
        for sequence in prefills:
            if sequence.phase is Phase.RUNNING and draft.budget > 0:
                self._plan_prefill(draft, sequence)

    def _plan_prefill(self, draft: StepDraft, sequence: Sequence) -> None:
        start, total = sequence.n_computed, len(sequence.tokens)
        count = min(total - start, self._cap, draft.budget)
        # It has blocks for all tokens it began with; only the engine may have added more at once.
        if start + count > len(sequence.blocks) * self.pool.block_size and not self._roster.grow(
            sequence, start + count, draft
        ):
            return
        draft.budget -= count
        if sequence.drafts:
            # Proposed tokens follow the last one, which may not be in this step.
            room = draft.budget if start + count == total else 0
            draft.budget -= self._fit_drafts(sequence, total, min(room, self._cap - count))
        draft.put(sequence, start, count)

    def _fit_drafts(self, sequence: Sequence, start: int, allowance: int) -> int:
        """Shorten what is proposed to what the sequence, the budget and the pool have room for."""
        pool, blocks = self.pool, sequence.blocks
        room = (len(blocks) + pool.free) * pool.block_size - start
        count = max(min(len(sequence.drafts), sequence.n_left - 1, allowance, room), 0)
        sequence.drafts = sequence.drafts[:count]
        lacking = pool.blocks_for(start + count) - len(blocks)
        if lacking > 0:
            blocks += pool.allocate(lacking)
        return count

    # -- those that begin, and give way ----------------------------------------------------------

    def _admit(self, draft: StepDraft) -> None:
        """Let those begin that have a slot, blocks and a part of the budget, in the policy's order.

        One without blocks keeps those behind it waiting, so that it gets them in the end.
        """
        running = self._roster.running
        for sequence in self.policy.candidates():
            if len(running) >= self._room.slots or draft.budget <= 0:
                return
            found = self._match(sequence, draft)
            if found is not None:
                if not self._room.fits(sequence, found, len(running)):
                    if not running:
                        draft.stuck.append(sequence)
                    return
                self._roster.begin(sequence, found, draft.now)
                self._plan_prefill(draft, sequence)
            elif draft.passed >= MOST_WAITING_FOR_PREFIX:
                return

    def _admit_by_rank(self, draft: StepDraft) -> None:
        """Let those begin that outrank one who runs, in its place where they need it."""
        running = self._roster.running
        for sequence in self.policy.candidates():
            last = max(running, key=self.policy.rank)
            if sequence in draft.preempted or not self.policy.outranks(sequence, last):
                return
            found = self._match(sequence, draft)
            if found is not None:
                if not self._make_room(sequence, found, draft):
                    return
                self._roster.begin(sequence, found, draft.now)
            elif draft.passed >= MOST_WAITING_FOR_PREFIX:
                return

    def _match(self, sequence: Sequence, draft: StepDraft) -> list[int] | None:
        """The blocks that hold its beginning; None where it cannot begin yet, room or no room."""
        if not sequence.ready:
            return None
        found = self._roster.prefix.match(sequence)
        draft.passed += found is None
        return found

    def _make_room(self, sequence: Sequence, found: list[int], draft: StepDraft) -> bool:
        """Preempt those that it outranks, as few as it takes; nobody if that would not do."""
        running = self._roster.running
        if self._room.fits(sequence, found, len(running)):
            return True
        ranked = sorted(running, key=self.policy.rank, reverse=True)
        worse = [other for other in ranked if self.policy.outranks(sequence, other)]
        victims = self._room.victims(sequence, found, len(running), worse)
        for victim in victims or ():
            self._roster.preempt(victim, draft)
        return victims is not None

    # -- what others ask -------------------------------------------------------------------------

    def stats(self) -> BatcherStats:
        """How many run and wait, and what was found, lost and is free."""
        return self._roster.stats()

    def check(self) -> None:
        """Assert what always holds between steps: for tests, and for debugging."""
        self._roster.check(self._outcomes.ahead)

    def __repr__(self) -> str:
        return f"<ContinuousBatcher of {self._roster!r}>"
