"""The tokens of a step: from its logits to what each sequence goes on with, with log probabilities.

A draw is a function of the logits, the parameters, the sequence's seed and the position: nothing of
it depends on what else is in the step. A row that cannot be drawn from (logits that are not numbers
or are infinite, constraints that leave nothing) fails alone: its result has an error and no tokens.
Minus infinity is a logit that is never drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, islice

import numpy as np
import torch

from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.draw_state import DrawState, Tokenise
from penstock_runtime.llm.drawing import Drawing, begin, is_drawable, is_simple
from penstock_runtime.llm.draws import (
    Draw,
    Drawn,
    draw_likeliest,
    draw_shaped,
    finite,
    keep,
    likeliest,
    not_finite,
    shape,
)
from penstock_runtime.llm.logit_edits import Masker
from penstock_runtime.llm.logprobs import TokenLogprobs, token_logprobs
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.verify import Proposals, SpeculationStats, match, reject
from penstock_runtime.llm.step import Row, StepPlan


@dataclass(slots=True)
class RowResult:
    """What one row of a step comes to: the tokens that its sequence goes on with, their logprobs if
    they are asked for, those of the prompt's tokens after its first (each comes once, over as many
    steps as it takes), or the error that ends the sequence.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: PenstockError | None = None


class Sampler:
    """Draws from the logits of a model of this vocabulary. `tokenise` gives the tokens of a bad
    word; `proposals` knows the distributions of drafts that are not to be matched; `device` draws
    where the logits are. Used by one thread.
    """

    def __init__(
        self,
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        *,
        tokenise: Tokenise | None = None,
        proposals: Proposals | None = None,
        device: DeviceSampler | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._tokenise = tokenise
        self._proposals = proposals
        self._device = device
        self._states: dict[Sequence, DrawState] = {}
        self.speculation = SpeculationStats()

    def check(self, sequence: Sequence) -> None:
        """Refuse, before it costs anything, what `sample` would refuse at its first token:
        InvalidArgument names the field.
        """
        self._state(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept of a sequence that has ended."""
        self._states.pop(sequence, None)

    def sample(self, plan: StepPlan, logits: torch.Tensor) -> list[RowResult]:
        """The results of the plan's rows, in their order. `logits`: float32 [wanted, vocabulary],
        those of all rows one after the other.
        """
        logits = self._fitting(logits)
        if all(map(self._is_plain, plan.rows)):
            return _sample_plain(plan, logits)
        results = [RowResult() for _ in plan.rows]
        draws = self._draws(plan, results)
        drawn = self._draw(list(draws.values()), logits)
        self._settle(draws, drawn, results)
        self._add_logprobs(draws, results, logits)
        self._add_prompt_logprobs(plan, results, logits)
        return results

    def begin(self, plan: StepPlan, logits: torch.Tensor) -> Drawing | None:
        """Draw where the logits are, and do not wait; None where the plan has rows that `sample`
        must draw. What it finds, it has drawn for good.
        """
        if self._proposals is not None or not all(map(is_simple, plan.rows)):
            return None
        results = [RowResult() for _ in plan.rows]
        draws = list(self._draws(plan, results).values())
        if any(result.error for result in results):
            return None
        if not draws or not all(is_drawable(draw, self._device) for draw in draws):
            return None
        return begin(plan.rows, draws, self._fitting(logits), self._device)

    def distributions(self, plan: StepPlan, logits: torch.Tensor) -> list[torch.Tensor]:
        """What `sample` draws each row's tokens from, float64 [positions, vocabulary]. Every row
        samples at random.
        """
        draws = self._draws(plan, [RowResult() for _ in plan.rows])
        shaped = shape(list(draws.values()), self._fitting(logits), self._masker)
        p = keep(shaped).probabilities(np.arange(len(shaped.x)))
        return [p[span.start : span.stop] for span in shaped.spans]

    def _fitting(self, logits: torch.Tensor) -> torch.Tensor:
        """Without what pads the vocabulary."""
        if logits.shape[1] < self._vocab_size:
            raise ValueError(f"logits of {logits.shape[1]} tokens, expected {self._vocab_size}")
        return logits[:, : self._vocab_size]

    def _state(self, sequence: Sequence) -> DrawState:
        state = self._states.get(sequence)
        if state is None:
            state = DrawState(sequence, self._vocab_size, self._eos_token_ids, self._tokenise)
            self._states[sequence] = state
        return state

    def _is_plain(self, row: Row) -> bool:
        """Whether nothing is wanted of this row but the likeliest token."""
        state = self._states.get(row.sequence)
        params = row.sequence.params
        return (
            state is not None
            and row.samples
            and row.logits == 1
            and state.plain
            and params.logprobs is None
            and params.prompt_logprobs is None
        )

    def _draws(self, plan: StepPlan, results: list[RowResult]) -> dict[int, Draw]:
        """The draws of the rows that sample, by the row's place in the plan."""
        draws: dict[int, Draw] = {}
        for i, (row, start) in enumerate(zip(plan.rows, _starts(plan), strict=True)):
            if not row.samples:
                continue
            try:
                state = self._state(row.sequence)
            except PenstockError as error:
                results[i].error = error
                continue
            drafts = row.sequence.drafts[: row.drafts]
            first = start + row.logits - 1 - row.drafts
            draws[i] = Draw(state, first, len(row.sequence.tokens), drafts)
        return draws

    @property
    def _masker(self) -> Masker | None:
        return None if self._device is None else self._device.mask

    def _draw(self, draws: list[Draw], logits: torch.Tensor) -> Drawn | None:
        plain = [draw for draw in draws if draw.state.plain]
        rest = [draw for draw in draws if not draw.state.plain]
        if plain:
            draw_likeliest(plain, logits)
        if rest and self._device is not None and self._proposals is None:
            # It keeps no distributions, which drafts are rejected by.
            rest = self._device.draw(rest, logits)
        return draw_shaped(shape(rest, logits, self._masker)) if rest else None

    def _settle(
        self, draws: dict[int, Draw], drawn: Drawn | None, results: list[RowResult]
    ) -> None:
        """Decide which drafts stand, and tell the grammars."""
        rejected = self._rejections(drawn) if drawn is not None else {}
        for i, draw in draws.items():
            tokens = rejected.get(draw.state.sequence) or match(draw.tokens, draw.drafts)
            try:
                if draw.error is not None:
                    raise draw.error
                draw.state.accept(tokens)
            except PenstockError as error:
                results[i].error = error
                continue
            results[i].tokens = tokens
            if draw.drafts:
                self.speculation.count(draw.drafts, tokens)

    def _rejections(self, drawn: Drawn) -> dict[Sequence, list[int]]:
        """The tokens of sequences whose drafts come with their distributions."""
        tokens: dict[Sequence, list[int]] = {}
        if self._proposals is None:
            return tokens
        for draw, span in zip(drawn.draws, drawn.spans, strict=True):
            sequence = draw.state.sequence
            q = self._proposals.distributions(sequence) if draw.drafts else None
            if q is None:
                continue
            p = drawn.kept.probabilities(np.arange(span.start, span.stop))
            drafts, bonus = draw.drafts, draw.tokens[-1]
            tokens[sequence] = reject(p, q, drafts, bonus, sequence.seed, draw.position)
        return tokens

    def _add_logprobs(
        self, draws: dict[int, Draw], results: list[RowResult], logits: torch.Tensor
    ) -> None:
        rows: list[int] = []
        tokens: list[int] = []
        tops: list[int] = []
        wanted = []
        for i, draw in draws.items():
            top = draw.state.sequence.params.logprobs
            if top is None or results[i].error is not None:
                continue
            wanted.append(results[i])
            rows += range(draw.first, draw.first + len(results[i].tokens))
            tokens += results[i].tokens
            tops += [top] * len(results[i].tokens)
        found = iter(token_logprobs(logits, rows, tokens, tops))
        for result in wanted:
            result.logprobs = list(islice(found, len(result.tokens)))

    def _add_prompt_logprobs(
        self, plan: StepPlan, results: list[RowResult], logits: torch.Tensor
    ) -> None:
        for row, start, result in zip(plan.rows, _starts(plan), results, strict=True):
            top = row.sequence.params.prompt_logprobs
            if top is None or not row.logits or result.error is not None:
                continue
            try:
                state = self._state(row.sequence)
                result.prompt_logprobs = _prompt_logprobs(row, state, logits, start, top)
            except PenstockError as error:
                result.error = error


def _sample_plain(plan: StepPlan, logits: torch.Tensor) -> list[RowResult]:
    """A step of which only the likeliest tokens are wanted: one pass over its logits."""
    if not plan.rows:
        return []
    tokens = likeliest(logits)
    return [
        RowResult([token]) if fit else RowResult(error=not_finite(len(row.sequence.tokens)))
        for row, token, fit in zip(plan.rows, tokens, finite(logits, tokens), strict=True)
    ]


def _prompt_logprobs(
    row: Row, state: DrawState, logits: torch.Tensor, start: int, top: int
) -> list[TokenLogprobs]:
    """Those of the prompt's tokens that follow the row's positions and were not given before: a
    prompt that lost its blocks is computed again.
    """
    sequence = row.sequence
    first = row.start + row.count - row.logits + 1  # the token that follows the first logits
    begin, end = max(first, state.given), min(first + row.logits, sequence.n_prompt)
    if begin >= end:
        return []
    state.given = end
    rows = range(start + begin - first, start + end - first)
    found = token_logprobs(logits, rows, sequence.tokens[begin:end], [top] * len(rows))
    for position, token in enumerate(found, begin):
        if token.logprob != token.logprob:
            raise not_finite(position)
    return found


def _starts(plan: StepPlan) -> list[int]:
    """Where each row's logits begin."""
    return list(accumulate((row.logits for row in plan.rows), initial=0))[: len(plan.rows)]
