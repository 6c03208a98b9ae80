"""The next token of each row: penalties, grammar mask, temperature, cuts, a seeded draw, logprob.

The draw adds Gumbel noise and takes the highest, which is a draw from the softmax. Noise is a
function of seed, step and token alone, so it does not matter what else is in the batch.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)
from penstock_kernels.philox import Stream, philox

AnyArray = npt.NDArray[Any]

_THREADS = 512
_DTYPES = ("float16", "bfloat16", "float32")
_INFINITY = np.float32(np.inf)


def _plan(
    logits: Any,
    counts: Any,
    prompt: Any,
    allowed: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition: Any,
    presence: Any,
    frequency: Any,
    seed: Any,
    step: Any,
    token: Any,
    logprob: Any,
) -> list[Launch]:
    """logits: [rows, vocabulary], NaN and -inf are never drawn, +inf is not expected; counts: int32
    [rows, vocabulary] or None, how often each token was generated; prompt: uint32 [rows,
    ceil(vocabulary / 32)] or None, a bit for each token that stands before those: repetition is of
    both, presence and frequency of what was generated; allowed: such bits or None; top_k: int32
    [rows], 0 keeps all; seed, step: int64 [rows]; the other parameters: float32 [rows]; a
    temperature of 0 takes the highest. token: int32 [rows], -1 where nothing is allowed; logprob:
    float32 [rows], of the distribution before anything is cut off.
    """
    rows, vocabulary = logits.shape
    if not rows:
        return []
    if not vocabulary:
        raise ValueError("a vocabulary of 0 tokens, expected at least 1")
    given = (logits, counts, prompt, allowed, temperature, top_k, top_p, min_p)
    more = (repetition, presence, frequency, seed, step, token, logprob, int32(vocabulary))
    name = instance("sample", c_name(logits), str(_THREADS))
    return [Launch(name, grid(rows), (_THREADS, 1, 1), given + more)]


def _reference(
    logits: Any,
    counts: Any,
    prompt: Any,
    allowed: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition: Any,
    presence: Any,
    frequency: Any,
    seed: Any,
    step: Any,
    token: Any,
    logprob: Any,
) -> None:
    for r in range(len(logits)):
        penalties = (repetition[r], presence[r], frequency[r])
        written = None if counts is None else counts[r]
        before = None if prompt is None else _bits(prompt[r], logits.shape[1])
        x = _penalised(logits[r].astype(np.float32), written, before, penalties)
        if allowed is not None:
            x[~_bits(allowed[r], x.size)] = -_INFINITY
        if temperature[r] > 0:
            x /= temperature[r]
        token[r], logprob[r] = _drawn(x, r, temperature, top_k, top_p, min_p, seed, step)


def _drawn(
    x: AnyArray,
    r: int,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    seed: Any,
    step: Any,
) -> tuple[int, float]:
    """The token and its logprob of one row's final logits."""
    x[np.isnan(x)] = -_INFINITY
    token = int(x.argmax())
    highest = x[token]
    if highest == -_INFINITY:
        return -1, float("-inf")
    weights = np.exp(x - highest)
    if temperature[r] > 0:
        kept = _kept(x, weights, int(top_k[r]), float(top_p[r]), float(min_p[r]))
        uniform = _uniform(kept, int(seed[r]), int(step[r]))
        token = int(kept[(x[kept] - highest - np.log(-np.log(uniform))).argmax()])
    return token, float(x[token] - highest - np.log(weights.sum()))


def _kept(x: AnyArray, weights: AnyArray, top_k: int, top_p: float, min_p: float) -> AnyArray:
    """What may be drawn: min-p, then top-k of those, then top-p of those; equals stay."""
    kept = np.flatnonzero((weights >= min_p) & (x > -_INFINITY))
    if 0 < top_k < kept.size:
        bound = np.partition(x[kept], -top_k)[-top_k]
        kept = kept[x[kept] >= bound]
    if top_p < 1:
        order = kept[np.argsort(-x[kept], kind="stable")]
        mass = np.cumsum(weights[order], dtype=np.float64)
        last = min(int(np.searchsorted(mass, top_p * mass[-1])), order.size - 1)
        kept = kept[x[kept] >= x[order[last]]]
    return kept


def _penalised(x: AnyArray, written: Any, before: Any, penalties: tuple[Any, Any, Any]) -> AnyArray:
    repetition, presence, frequency = penalties
    if written is None and before is None:
        return x
    count = np.zeros(x.size, np.int32) if written is None else written
    seen = count > 0 if before is None else before | (count > 0)
    x = np.where(seen, np.where(x > 0, x / repetition, x * repetition), x)
    lowered: AnyArray = (x - frequency * count - presence * (count > 0)).astype(np.float32)
    return lowered


def _bits(words: Any, size: int) -> AnyArray:
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:size].astype(bool)


def _uniform(tokens: AnyArray, seed: int, step: int) -> AnyArray:
    """The first word for each token, as a float between 0 and 1, neither of them."""
    first, *_ = philox(tokens, step, Stream.TOKEN, seed)
    return ((first >> np.uint64(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-23)


def _traffic(
    logits: Any,
    counts: Any,
    prompt: Any,
    allowed: Any,
    temperature: Any,
    top_k: Any,
    top_p: Any,
    min_p: Any,
    repetition: Any,
    presence: Any,
    frequency: Any,
    seed: Any,
    step: Any,
    token: Any,
    logprob: Any,
) -> Traffic:
    read = sum(array.nbytes for array in (logits, counts, prompt, allowed) if array is not None)
    # Eleven parameters and answers of a row; exp and a comparison for each logit.
    return Traffic(read + len(logits) * 52, 2 * logits.size)


SAMPLE = Kernel(
    name="sample",
    source="sample.cu",
    instances=tuple(instance("sample", c_type(d), str(_THREADS)) for d in _DTYPES),
    outputs=("token", "logprob"),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
