"""What one step of the engine computes: some tokens of some sequences, packed together."""

from dataclasses import dataclass, field

from penstock_runtime.llm.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part of a step: `count` positions from `start`, the last `drafts` of which
    hold proposed tokens. Of the last `logits` positions the logits are wanted: 1 + drafts of a row
    that samples, all of one whose prompt's logprobs are asked for, else none.
    """

    sequence: Sequence
    start: int
    count: int
    drafts: int = 0
    logits: int = 0
    samples: bool = False

    @property
    def decodes(self) -> bool:
        """Whether it is one token after others."""
        return self.count == 1 and self.start > 0

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        sequence, real = self.sequence, self.start + self.count - self.drafts
        return sequence.tokens[self.start : real] + sequence.drafts[: self.drafts]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The rows of a step, those that decode first; `preempted` lost their blocks to make room, and
    `stuck` can never go on: each is alone and needs more blocks than there are.
    """

    rows: tuple[Row, ...] = ()
    preempted: tuple[Sequence, ...] = ()
    stuck: tuple[Sequence, ...] = field(default=())

    @property
    def n_tokens(self) -> int:
        """How many positions are computed."""
        return sum(row.count for row in self.rows)

    @property
    def n_decodes(self) -> int:
        """How many rows decode; they are the first."""
        return sum(row.decodes for row in self.rows)
