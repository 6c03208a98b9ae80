"""Drives a runner by plans that are made by hand: greedy, as simple as can be, and with the wishes
that a real batcher only has by chance (chunks of a size, preemptions on order, shared prefixes).
"""

import torch

from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Phase, Sequence
from penstock_runtime.llm.step import Row, StepPlan


class PlanDriver:
    """`chunk` bounds what a row computes in a step; every `preempt_every` steps the newest sequence
    loses its blocks; with `prefixes` full blocks of the same tokens are shared; a new sequence
    joins every `arrive_every` steps.
    """

    def __init__(
        self,
        runner: PagedRunner,
        *,
        chunk: int = 1 << 30,
        preempt_every: int = 0,
        prefixes: bool = False,
        arrive_every: int = 0,
    ) -> None:
        self.runner = runner
        self.size = runner.pool.block_size
        self.free = list(range(runner.pool.n_blocks))
        self.chunk = chunk
        self.preempt_every = preempt_every
        self.prefixes = prefixes
        self.arrive_every = arrive_every
        self.kept: dict[tuple[int, ...], int] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.logits: dict[int, list[torch.Tensor]] = {}
        self.steps = self.preemptions = self.cached = 0

    def add(self, prompt: list[int], max_tokens: int) -> Sequence:
        identity = len(self.logits)
        sequence = Sequence(identity, prompt, SamplingParams(), max_tokens=max_tokens)
        self.logits[identity] = []
        self.waiting.append(sequence)
        return sequence

    def run(self) -> None:
        while self.waiting or self.running:
            self.step()

    def step(self) -> None:
        self.steps += 1
        if self.preempt_every and self.steps % self.preempt_every == 0 and len(self.running) > 1:
            self._preempt(self.running.pop())
        self._admit()
        rows = [self._row(sequence) for sequence in self.running]
        rows.sort(key=lambda row: not row.decodes)
        logits = self.runner.run(StepPlan(tuple(rows)))
        self._update(rows, logits)

    def _admit(self) -> None:
        if self.arrive_every and self.running and self.steps % self.arrive_every:
            return
        while self.waiting:
            sequence = self.waiting.pop(0)
            if self.prefixes:
                self._match(sequence)
            self.running.append(sequence)
            if self.arrive_every:
                break

    def _match(self, sequence: Sequence) -> None:
        for end in range(self.size, len(sequence.tokens), self.size):
            block = self.kept.get(tuple(sequence.tokens[:end]))
            if block is None:
                break
            sequence.blocks.append(block)
            sequence.n_computed = end
            self.cached += self.size

    def _row(self, sequence: Sequence) -> Row:
        count = min(len(sequence.tokens) - sequence.n_computed, self.chunk)
        last = sequence.n_computed + count
        while len(sequence.blocks) * self.size < last:
            sequence.blocks.append(self.free.pop(0))
        samples = last == len(sequence.tokens)
        return Row(sequence, sequence.n_computed, count, logits=int(samples), samples=samples)

    def _update(self, rows: list[Row], logits: torch.Tensor) -> None:
        found = iter(logits)
        for row in rows:
            sequence = row.sequence
            sequence.n_computed += row.count
            self._keep(sequence)
            if not row.samples:
                continue
            one = next(found)
            self.logits[sequence.id].append(one.log_softmax(-1))
            sequence.tokens.append(int(one.argmax()))
            if not sequence.n_left:
                sequence.phase = Phase.FINISHED
                self.running.remove(sequence)
                self._release(sequence)

    def _keep(self, sequence: Sequence) -> None:
        if self.prefixes:
            for page in range(sequence.n_computed // self.size):
                tokens = tuple(sequence.tokens[: (page + 1) * self.size])
                self.kept.setdefault(tokens, sequence.blocks[page])

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        sequence.n_computed = 0
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        kept = set(self.kept.values())
        self.free.extend(block for block in sequence.blocks if block not in kept)
        sequence.blocks = []
