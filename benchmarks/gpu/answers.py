"""Many long answers by the parts of an engine, without its thread: steps one by one, or each
launched before the last one's tokens are known.
"""

import time
from collections.abc import Callable
from typing import Any

from penstock_runtime.llm.admission import Limits
from penstock_runtime.llm.block_pool import BlockPool
from penstock_runtime.llm.continuous_batcher import ContinuousBatcher
from penstock_runtime.llm.device_sampler import DeviceSampler
from penstock_runtime.llm.policy import make_policy
from penstock_runtime.llm.runner import PagedRunner
from penstock_runtime.llm.sampler import Sampler
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence as Text
from penstock_runtime.llm.stepping import Step, Steps, StepsAhead

PROMPT = 64
_GREEDY = SamplingParams(temperature=0.0)
WAYS: dict[str, Callable[[Any, Sampler], Steps]] = {"ahead": StepsAhead, "one by one": Steps}


class Answers:
    """So many answers of so many tokens each; `texts` are those of the last time."""

    def __init__(
        self,
        runner: PagedRunner,
        count: int,
        tokens: int,
        vocabulary: int,
        params: SamplingParams = _GREEDY,
    ) -> None:
        self._runner = runner
        self._params = params
        self._vocabulary = vocabulary
        self._shape = count, tokens
        self.texts: list[list[int]] = []

    def time(self, way: str) -> dict[str, float]:
        """Seconds for all of them by one of WAYS, from the first step to the last token."""
        count, tokens = self._shape
        steps, batcher, made = self._parts(way)
        began = time.perf_counter()
        for text in made:
            batcher.add(text, 0)
        _run(batcher, steps)
        spent = time.perf_counter() - began
        self.texts = [text.tokens[text.n_prompt :] for text in made]
        return {"seconds": round(spent, 3), "tokens_per_s": round(count * tokens / spent, 1)}

    def _parts(self, way: str) -> tuple[Steps, ContinuousBatcher, list[Text]]:
        count, tokens = self._shape
        pool, device = self._runner.pool, self._runner.device
        limits = Limits(max_num_seqs=count, max_batched_tokens=4096)
        batcher = ContinuousBatcher(
            BlockPool(pool.n_blocks, pool.block_size, caching=False), limits, make_policy("fcfs")
        )
        sampler = Sampler(self._vocabulary, device=DeviceSampler(device) if device else None)
        made = [
            Text(i, [7] * PROMPT, self._params, max_tokens=tokens, seed=i) for i in range(count)
        ]
        return WAYS[way](self._runner, sampler), batcher, made


def _run(batcher: ContinuousBatcher, steps: Steps) -> None:
    """As an engine does, until nothing is left."""
    last: Step | None = None
    while True:
        if last is not None:
            batcher.foresee(last.plan)
        plan = batcher.plan(0)
        step = steps.launch(plan, last, 0) if plan.rows else None
        if last is not None:
            _take_in(batcher, steps, last)
        last = None
        if step is not None and step.drawn is not None:
            last = step
        elif step is not None:
            _take_in(batcher, steps, step)
        elif not batcher.running:
            return


def _take_in(batcher: ContinuousBatcher, steps: Steps, step: Step) -> None:
    results = steps.results(step)
    batcher.update(step.plan, [result.tokens for result in results])
    for row in step.plan.rows:
        if row.sequence.n_left < 1:
            batcher.finish(row.sequence)
