"""A step's plan in the making: rows in their order, and the budget that is left for more."""

from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import Row, StepPlan


class StepDraft:
    """What has been planned so far: `ones` are rows of one token that follows others; `passed`
    counts those who were looked at and wait for what another computes.
    """

    __slots__ = ("budget", "now", "ones", "others", "passed", "preempted", "stuck")

    def __init__(self, now: int, budget: int) -> None:
        self.now = now
        self.budget = budget
        self.passed = 0
        self.ones: list[Row] = []
        self.others: list[Row] = []
        self.preempted: list[Sequence] = []
        self.stuck: list[Sequence] = []

    def put(self, sequence: Sequence, start: int, count: int) -> None:
        """A row of so many of its tokens, and of its drafts if they follow."""
        total = len(sequence.tokens)
        samples = start + count == total and sequence.n_left > 0
        drafts = len(sequence.drafts) if samples else 0
        logits = 1 + drafts if samples else 0
        # The prompt is computed for the first time, or what was computed of it got lost.
        if sequence.params.prompt_logprobs is not None and total == sequence.n_prompt:
            logits = count + drafts
        row = Row(sequence, start, count + drafts, drafts, logits, samples)
        (self.ones if row.decodes else self.others).append(row)

    def plan(self) -> StepPlan:
        """What has been planned, without the rows of those who had to give way afterwards."""
        rows = self.ones + self.others
        if self.preempted:
            rows = [row for row in rows if row.sequence.phase is Phase.RUNNING]
        return StepPlan(tuple(rows), tuple(self.preempted), tuple(self.stuck))

    def __repr__(self) -> str:
        return f"<StepDraft {len(self.ones)}+{len(self.others)} rows, {self.budget} tokens left>"
