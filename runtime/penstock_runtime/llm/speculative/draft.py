"""Drafts from a small model that shares the large one's tokens, over a runner and pool of its own.

It follows each sequence with a shadow: a text with blocks of its own, computed as far as both
agree. Where a caller asked for a seed, drafts are drawn with the very noise that the large model's
tokens are drawn with, so that the two often agree and the text does not depend on what is proposed
(Daliri, Musco and Suresh, "Coupling without communication and drafter-invariant speculative
decoding", 2024). Otherwise they are drawn on their own, and their distributions kept: more of them
then stand.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import torch
from torch.nn.functional import pad

from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.proposer import wanted_drafts
from penstock_runtime.llm.step import Row, StepPlan

_OTHER_NOISE = 0x5851F42D4C957F2D


class DraftRunner(Protocol):
    """The runner of the small model."""

    def run(self, plan: StepPlan) -> torch.Tensor:
        """The wanted logits of all rows, float32 [wanted, vocabulary]."""


class DraftProposer:
    """Proposes up to `tokens` drafts of a model whose pool has `n_blocks` blocks of `block_size`
    tokens; a step computes up to `max_batched_tokens`. A sequence that finds no room gets no
    drafts. `vocab_size` is the large model's.
    """

    def __init__(
        self,
        runner: DraftRunner,
        *,
        vocab_size: int,
        n_blocks: int,
        block_size: int,
        tokens: int = 4,
        max_batched_tokens: int = 512,
    ) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._sampler = Sampler(vocab_size)
        self._free = list(reversed(range(n_blocks)))
        self._block_size = block_size
        self._tokens = tokens
        self._budget = max_batched_tokens
        self._shadows: dict[Sequence, _Shadow] = {}

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set the drafts of each sequence."""
        shadows = []
        for sequence in sequences:
            sequence.drafts = []
            count = wanted_drafts(sequence, self._tokens)
            if count and (shadow := self._follow(sequence, count)):
                shadows.append(shadow)
        while unfinished := [shadow for shadow in shadows if shadow.missing]:
            self._step(unfinished)
        for shadow in shadows:
            shadow.leader.drafts = shadow.drafts

    def distributions(self, sequence: Sequence) -> torch.Tensor | None:
        """What its drafts were drawn from, float64 [drafts, vocabulary]; None if they are to be
        matched.
        """
        shadow = self._shadows.get(sequence)
        if shadow is None or not shadow.distributions:
            return None
        return torch.cat(shadow.distributions)

    def forget(self, sequence: Sequence) -> None:
        """Give back the blocks of a sequence that has ended."""
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self._free += reversed(shadow.text.blocks)
            self._sampler.forget(shadow.text)

    def __repr__(self) -> str:
        return f"<DraftProposer {len(self._shadows)} sequences, {len(self._free)} free blocks>"

    def _follow(self, sequence: Sequence, count: int) -> "_Shadow | None":
        """Its shadow, with room for so many drafts; None, and no shadow, if there is none."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            shadow = self._shadows[sequence] = _Shadow(sequence)
        shadow.follow(count)
        blocks = shadow.text.blocks
        needed = -(-(len(sequence.tokens) + count) // self._block_size) - len(blocks)
        if needed > len(self._free):
            self.forget(sequence)
            return None
        blocks += [self._free.pop() for _ in range(needed)]
        return shadow

    def _step(self, shadows: list["_Shadow"]) -> None:
        """Compute some tokens of each, and go on with those that have caught up."""
        budget = self._budget
        planned: list[tuple[Row, _Shadow]] = []
        for shadow in sorted(shadows, key=lambda shadow: shadow.lag):
            count = min(shadow.lag, budget)
            if count:
                planned.append((shadow.row(count), shadow))
                budget -= count
        plan = StepPlan(tuple(row for row, _ in planned))
        logits = self._runner.run(plan)
        # Models that share their tokens may differ in how far their vocabularies are padded.
        missing = max(self._vocab_size - logits.shape[1], 0)
        self._draw(planned, pad(logits, (0, missing), value=-torch.inf))

    def _draw(self, planned: list[tuple["Row", "_Shadow"]], logits: torch.Tensor) -> None:
        drawing = [(row, shadow) for row, shadow in planned if row.samples]
        plan = StepPlan(tuple(row for row, _ in drawing))
        results = self._sampler.sample(plan, logits)
        keeping = [i for i, (_, shadow) in enumerate(drawing) if shadow.keeps]
        if keeping:
            rows = StepPlan(tuple(drawing[i][0] for i in keeping))
            kept = self._sampler.distributions(rows, logits[keeping])
            for i, distribution in zip(keeping, kept, strict=True):
                drawing[i][1].distributions.append(distribution)
        for row, shadow in planned:
            shadow.text.n_computed += row.count
        for (_, shadow), result in zip(drawing, results, strict=True):
            shadow.go_on(result.tokens)


class _Shadow:
    """What the small model knows of one sequence. `keeps`: the distributions of its drafts are
    kept; `missing`: so many drafts are still to be drawn.
    """

    __slots__ = ("_followed", "distributions", "keeps", "leader", "missing", "text")

    def __init__(self, leader: Sequence) -> None:
        # Penalties and what depends on the text's length are left to the large model.
        params = replace(
            leader.params,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            bad_words=(),
            min_tokens=0,
            logprobs=None,
            prompt_logprobs=None,
        )
        self.leader = leader
        self.keeps = params.temperature > 0 and params.seed is None
        seed = leader.seed ^ _OTHER_NOISE if self.keeps else leader.seed
        self.text = Sequence(leader.id, [], params, max_tokens=leader.max_tokens, seed=seed)
        self.distributions: list[torch.Tensor] = []
        self.missing = 0
        self._followed = 0

    @property
    def lag(self) -> int:
        """How many tokens are not computed."""
        return len(self.text.tokens) - self.text.n_computed

    @property
    def drafts(self) -> list[int]:
        """What follows the leader's text."""
        return self.text.tokens[len(self.leader.tokens) :]

    def follow(self, missing: int) -> None:
        """Take over the leader's text; what is computed stays computed as far as both agree."""
        ours, theirs = self.text.tokens, self.leader.tokens
        same = self._followed
        while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
            same += 1
        ours[same:] = theirs[same:]
        # The last token's logits are needed, so it is computed again if it was.
        self.text.n_computed = min(self.text.n_computed, same, len(ours) - 1)
        self._followed = len(ours)
        self.distributions.clear()
        self.missing = missing

    def row(self, count: int) -> Row:
        """The next tokens to compute; the last of them is drawn from."""
        last = count == self.lag
        return Row(self.text, self.text.n_computed, count, logits=int(last), samples=last)

    def go_on(self, tokens: list[int]) -> None:
        """One more draft; there are no more where nothing could be drawn."""
        self.text.tokens += tokens
        self.missing = self.missing - 1 if tokens else 0
