"""What becomes of plans: they are computed, or foreseen first, or taken back.

A device computes a step while the next is planned, and the next goes on with what the step will
choose: its tokens have their places then, before anybody on the host knows them. Blocks that become
full are found by others only when what fills them is known to be computed.

Pure, as the batcher is.
"""

from collections.abc import Sequence as Items

from penstock_runtime.llm.roster import Roster
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import StepPlan

# What holds the place of a token that a step on its way will tell; any token does.
UNKNOWN = 0


class Outcomes:
    """Carries out what comes of the plans for the sequences of a roster."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._foreseen: StepPlan | None = None

    @property
    def ahead(self) -> set[Sequence]:
        """Those of which a step is foreseen."""
        return {row.sequence for row in self._foreseen.rows} if self._foreseen else set()

    def foresee(self, plan: StepPlan) -> None:
        """Go on as if a plan were computed, with the place of a token for each row that samples."""
        for row in plan.rows:
            sequence = row.sequence
            # It may have ended since it was planned.
            if sequence.phase is not Phase.RUNNING:
                continue
            sequence.n_computed = row.start + row.count
            if row.samples:
                sequence.tokens.append(UNKNOWN)
                sequence.foreseen = 1
        self._foreseen = plan

    def take_back(self, plan: StepPlan) -> None:
        """What was foreseen did not come."""
        for row in plan.rows:
            sequence = row.sequence
            if sequence.phase is Phase.FINISHED:
                continue
            self._roster.learn(sequence, [])
            if sequence.phase is Phase.RUNNING:
                sequence.n_computed = row.start
        self._foreseen = None

    def update(self, plan: StepPlan, tokens: Items[list[int]]) -> None:
        """Take in the tokens that were accepted, row by row."""
        self._foreseen = None
        roster, pool = self._roster, self._roster.pool
        running, size, charges = Phase.RUNNING, pool.block_size, roster.policy.charges
        for row, new in zip(plan.rows, tokens, strict=True):
            sequence = row.sequence
            # It may have ended while it was computed.
            if sequence.phase is Phase.FINISHED:
                continue
            computed = row.start + row.count
            if row.samples:
                # The last of the new ones is not computed yet; nor are drafts that were rejected.
                computed += len(new) - 1 - row.drafts
                if sequence.foreseen:
                    roster.learn(sequence, new)
                else:
                    sequence.tokens += new
                if sequence.drafts:
                    sequence.drafts = []
                if charges:
                    roster.policy.charge(sequence, 0, len(new))
            # It may have had to give way to another after it was foreseen.
            if sequence.phase is not running:
                continue
            sequence.n_computed = computed
            if computed >= (len(sequence.hashes) + 1) * size:
                roster.prefix.publish(sequence)

    def __repr__(self) -> str:
        return f"<Outcomes, {len(self.ahead)} sequences ahead>"
