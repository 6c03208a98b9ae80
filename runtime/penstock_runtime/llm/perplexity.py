"""How well a model foretells a text: what quantisation costs is measured by it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.engine_seams import Runner
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.sequence import Sequence as Text
from penstock_runtime.llm.step import Row, StepPlan

WINDOW = 256
_BATCH = 8


@torch.inference_mode()
def perplexity(model: Any, tokens: Sequence[int], window: int = WINDOW) -> float:
    """Of a causal model of transformers, over windows of a text that do not overlap: e to the mean
    of the negative log-probabilities of all tokens but each window's first.
    """
    whole = _whole(tokens, window)
    loss, count = 0.0, 0
    windows = torch.tensor(tokens[:whole], device=model.device).view(-1, window)
    for first in range(0, len(windows), _BATCH):
        ids = windows[first : first + _BATCH]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].flatten()
        loss += float(functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"))
        count += targets.numel()
    return math.exp(loss / count)


def paged_perplexity(
    runner: Runner, tokens: Sequence[int], *, block_size: int, window: int = WINDOW, chunk: int = 16
) -> float:
    """As `perplexity`, of a model that runs over pages: each window goes through them so many
    tokens at a time, so that what the pages lose is lost here too. The runner has blocks for one
    window.
    """
    loss, count = 0.0, 0
    for first in range(0, _whole(tokens, window), window):
        text = Text(first, list(tokens[first : first + window]), SamplingParams(), max_tokens=1)
        text.blocks = list(range(-(-window // block_size)))
        parts = [
            runner.run(_chunk(text, at, min(chunk, window - at))) for at in range(0, window, chunk)
        ]
        targets = torch.tensor(text.tokens[1:], device=parts[0].device)
        loss += float(functional.cross_entropy(torch.cat(parts)[:-1], targets, reduction="sum"))
        count += window - 1
    return math.exp(loss / count)


def _chunk(text: Text, start: int, count: int) -> StepPlan:
    return StepPlan((Row(text, start, count, logits=count),))


def _whole(tokens: Sequence[int], window: int) -> int:
    """How many of the tokens fill whole windows."""
    whole = len(tokens) // window * window
    if window < 2 or not whole:
        raise InvalidArgument(f"{len(tokens)} tokens are no window of {window}, of 2 or more")
    return whole
