"""A model that is a table, a loop around it, a grammar that is a rule, exact distributions."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.sampler import RowResult, Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence
from penstock_runtime.llm.speculative.proposer import Proposer
from penstock_runtime.llm.step import Row, StepPlan

Array = npt.NDArray[Any]


class TableModel:
    """Its logits depend on the last two tokens."""

    def __init__(self, vocab_size: int, seed: int = 0, spread: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(257, vocab_size, generator=generator) * spread

    def run(self, plan: StepPlan) -> torch.Tensor:
        wanted = [self._logits(row, place) for row in plan.rows for place in _places(row)]
        return torch.stack(wanted) if wanted else torch.empty(0, self.table.shape[1])

    def _logits(self, row: Row, place: int) -> torch.Tensor:
        text = row.sequence.tokens[: row.start] + row.tokens
        before = text[place - 1] if place else 0
        return self.table[(text[place] * 31 + before * 17) % 257]


def _places(row: Row) -> range:
    end = row.start + row.count
    return range(end - row.logits, end)


def sequence(
    params: SamplingParams, prompt: Iterable[int] = (1, 2, 3), seed: int = 7, max_tokens: int = 24
) -> Sequence:
    return Sequence(0, list(prompt), params, max_tokens=max_tokens, seed=seed)


def row_of(text: Sequence) -> Row:
    """The row that computes all there is to compute of a text, and its drafts."""
    drafts = len(text.drafts)
    count = len(text.tokens) + drafts - text.n_computed
    return Row(text, text.n_computed, count, drafts, 1 + drafts, samples=True)


def take(texts: list[Sequence], plan: StepPlan, results: list[RowResult]) -> None:
    """What a batcher does with the tokens of a step."""
    for text, row, result in zip(texts, plan.rows, results, strict=True):
        assert result.error is None, result.error
        text.n_computed = row.start + row.count - row.drafts + len(result.tokens) - 1
        text.tokens += result.tokens
        text.drafts = []


def generate(
    sampler: Sampler, model: TableModel, texts: list[Sequence], proposer: Proposer | None = None
) -> int:
    """Run the texts together until each has all its tokens; how many steps it took."""
    steps = 0
    while running := [text for text in texts if text.n_left > 0]:
        if proposer is not None:
            proposer.propose(running)
        plan = StepPlan(tuple(map(row_of, running)))
        take(running, plan, sampler.sample(plan, model.run(plan)))
        steps += 1
    return steps


def sample_one(sampler: Sampler, text: Sequence, logits: Array | torch.Tensor) -> RowResult:
    """One row's result for these logits [1 + drafts, vocabulary]."""
    (result,) = sampler.sample(StepPlan((row_of(text),)), torch.as_tensor(logits).float())
    return result


class RuleGrammar:
    """A token may come if the rule says so of the tokens before it and the token; 0 is the end."""

    def __init__(self, vocab_size: int, rule: Callable[[list[int], int], bool]) -> None:
        self.told: list[int] = []
        self._vocab_size = vocab_size
        self._rule = rule

    def fill(self, mask: object, row: int) -> None:
        assert isinstance(mask, np.ndarray)
        bits = np.zeros(mask.shape[1] * 32, np.uint8)
        for token in range(self._vocab_size):
            bits[token] = self._rule(self.told, token)
        mask[row] = np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> bool:
        if not self._rule(self.told, token):
            return False
        self.told.append(token)
        return True

    def rollback(self, count: int) -> None:
        assert 0 < count <= len(self.told)
        del self.told[-count:]

    @property
    def finished(self) -> bool:
        return not any(self._rule(self.told, token) for token in range(1, self._vocab_size))


def exact(logits: Array, params: SamplingParams) -> Array:
    """The distribution that a draw has, worked out the slow way."""
    x = logits.astype(np.float64) / params.temperature
    p = np.exp(x - x.max())
    p[p < params.min_p] = 0
    if params.top_k > 0:
        p[p < np.sort(p)[::-1][min(params.top_k, len(p)) - 1]] = 0
    order = np.argsort(-p, kind="stable")
    if params.top_p < 1:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= params.top_p * p.sum()]] = 0
    whole: Array = p / p.sum()
    return _typical(whole, params.typical_p) if params.typical_p < 1 else whole


def _typical(p: Array, mass: float) -> Array:
    held = np.flatnonzero(p)
    surprise = -np.log(p[held])
    order = held[np.argsort(np.abs(surprise - (p[held] * surprise).sum()), kind="stable")]
    before = np.cumsum(p[order]) - p[order]
    kept = np.zeros_like(p)
    kept[order[before < mass]] = p[order[before < mass]]
    typical: Array = kept / kept.sum()
    return typical


def assert_drawn_from(tokens: Iterable[int], p: Array) -> None:
    """Pearson's chi-square test, six deviations wide: what is rare is counted together."""
    counts = np.bincount(list(tokens), minlength=len(p)).astype(np.float64)
    assert not counts[p == 0].any()
    wanted = p * counts.sum()
    rare = wanted < 10
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    counts = np.append(counts[~rare], counts[rare].sum())
    held = wanted > 0
    chi = ((counts[held] - wanted[held]) ** 2 / wanted[held]).sum()
    freedom = max(held.sum() - 1, 1)
    assert chi < freedom + 6 * np.sqrt(2 * freedom), f"chi-square {chi:.1f} of {freedom}"
