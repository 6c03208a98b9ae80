"""A grammar's mask on logits: what it does not allow is never drawn."""

from typing import Any

import numpy as np

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    blocks,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)

_THREADS = 256
_DTYPES = ("float16", "bfloat16", "float32")


def _plan(logits: Any, allowed: Any, row: Any) -> list[Launch]:
    """logits: [logit rows, vocabulary], changed in place; allowed: uint32 [masks, ceil(vocabulary /
    32)], a bit for each token; row: int64 [masks], whose logits each mask is for.
    """
    vocabulary, masks = logits.shape[1], len(row)
    if allowed.shape[1] != blocks(vocabulary, 32):
        expected = blocks(vocabulary, 32)
        raise ValueError(f"masks of {allowed.shape[1]} words, expected {expected}")
    if not masks or not vocabulary:
        return []
    arguments = (logits, allowed, row, int32(vocabulary))
    name = instance("token_bitmask", c_name(logits))
    return [Launch(name, grid(blocks(vocabulary, _THREADS), masks), (_THREADS, 1, 1), arguments)]


def _reference(logits: Any, allowed: Any, row: Any) -> None:
    for words, of in zip(allowed, row, strict=True):
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: logits.shape[1]]
        logits[of, bits == 0] = -np.inf


def _traffic(logits: Any, allowed: Any, row: Any) -> Traffic:
    # Of the logits nothing is read, and at most everything written.
    return Traffic(allowed.nbytes + row.nbytes + len(row) * logits.shape[1] * logits.dtype.itemsize)


TOKEN_BITMASK = Kernel(
    name="token_bitmask",
    source="bitmask.cu",
    instances=tuple(instance("token_bitmask", c_type(d)) for d in _DTYPES),
    outputs=("logits",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
