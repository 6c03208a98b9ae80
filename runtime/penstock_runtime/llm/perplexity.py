"""How well a model foretells a text: what quantisation costs is measured by it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from penstock_runtime.errors import InvalidArgument

WINDOW = 256
_BATCH = 8


@torch.inference_mode()
def perplexity(model: Any, tokens: Sequence[int], window: int = WINDOW) -> float:
    """Of a causal model of transformers, over windows of a text that do not overlap: e to the mean
    of the negative log-probabilities of all tokens but each window's first.
    """
    whole = len(tokens) // window * window
    if window < 2 or not whole:
        raise InvalidArgument(f"{len(tokens)} tokens are no window of {window}, of 2 or more")
    loss, count = 0.0, 0
    windows = torch.tensor(tokens[:whole], device=model.device).view(-1, window)
    for first in range(0, len(windows), _BATCH):
        ids = windows[first : first + _BATCH]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].flatten()
        loss += float(functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"))
        count += targets.numel()
    return math.exp(loss / count)
