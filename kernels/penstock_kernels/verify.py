"""Which of the proposed tokens stand, and what follows them: by matching, and by rejection
(Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding", 2023).
"""

from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel, Launch, Traffic, blocks, grid, instance, int32
from penstock_kernels.philox import Stream, uniform64

_THREADS = 256
_MATCH = "verify_match"


def _plan_match(drawn: Any, draft: Any, places: Any, tokens: Any, count: Any) -> list[Launch]:
    """drawn: int32 [rows, depth + 1], the model's own token at each place; draft: int32 [rows,
    depth]; places: int32 [rows], how many of those drawn count, 0 for none; tokens: int32 [rows,
    depth + 1], those that the row goes on with, -1 behind; count: int32 [rows], how many.
    """
    rows, depth = draft.shape
    if not rows:
        return []
    arguments = (drawn, draft, places, tokens, count, int32(rows), int32(depth))
    return [Launch(_MATCH, grid(blocks(rows, _THREADS)), (_THREADS, 1, 1), arguments)]


def _match(drawn: Any, draft: Any, places: Any, tokens: Any, count: Any) -> None:
    same = np.cumprod(drawn[:, :-1] == draft, axis=1).sum(axis=1)
    used = np.where(places > 0, np.minimum(same, places - 1) + 1, 0)
    count[...] = used
    tokens[...] = np.where(np.arange(drawn.shape[1]) < used[:, None], drawn, -1)


def _match_traffic(drawn: Any, draft: Any, places: Any, tokens: Any, count: Any) -> Traffic:
    return Traffic(2 * drawn.nbytes + draft.nbytes + 2 * places.nbytes)


def _plan_reject(
    p: Any,
    q: Any,
    draft: Any,
    places: Any,
    drafts: Any,
    bonus: Any,
    seed: Any,
    position: Any,
    tokens: Any,
    count: Any,
) -> list[Launch]:
    """p: float32 [rows, depth + 1, vocabulary], q: float32 [rows, depth, vocabulary], what each
    token was drawn from; draft: int32 [rows, depth]; places: int32 [rows], how many of p count;
    drafts: int32 [rows], how many drafts; bonus: int32 [rows], drawn from the last p; seed,
    position: int64 [rows], the position of the first draft; tokens, count as in `verify_match`.
    """
    rows, depth, vocabulary = q.shape
    if not rows:
        return []
    given = (p, q, draft, places, drafts, bonus, seed, position, tokens, count)
    name = instance("verify_reject", str(_THREADS))
    sizes = (int32(depth), int32(vocabulary))
    return [Launch(name, grid(rows), (_THREADS, 1, 1), given + sizes)]


def _reject(
    p: Any,
    q: Any,
    draft: Any,
    places: Any,
    drafts: Any,
    bonus: Any,
    seed: Any,
    position: Any,
    tokens: Any,
    count: Any,
) -> None:
    tokens[...] = -1
    for r in range(len(q)):
        own = [int(token) for token in draft[r, : min(int(drafts[r]), int(places[r]))]]
        place = {"seed": int(seed[r]), "step": int(position[r])}
        stood = _stood(p[r], q[r], own, **place)
        after = own[:stood]
        if stood < len(own):
            at = place["step"] + stood
            after.append(_replacement(p[r, stood], q[r, stood], at, place["seed"]))
        elif stood < places[r]:
            after.append(int(bonus[r]))
        count[r] = len(after)
        tokens[r, : len(after)] = after


def _stood(p: Any, q: Any, own: list[int], seed: int, step: int) -> int:
    """How many drafts stand before the first that does not."""
    for i, token in enumerate(own):
        accept = uniform64(step + i, Stream.ACCEPT, seed)
        if not accept * float(q[i, token]) < float(p[i, token]):
            return i
    return len(own)


def _replacement(p: Any, q: Any, step: int, seed: int) -> int:
    wide = p.astype(np.float64)
    rest = np.maximum(wide - q.astype(np.float64), 0)
    mass = np.cumsum(rest if rest.sum() > 0 else wide)
    wanted = mass[-1] * uniform64(step, Stream.RESIDUAL, seed)
    return min(int(np.searchsorted(mass, wanted, side="right")), len(mass) - 1)


def _reject_traffic(
    p: Any,
    q: Any,
    draft: Any,
    places: Any,
    drafts: Any,
    bonus: Any,
    seed: Any,
    position: Any,
    tokens: Any,
    count: Any,
) -> Traffic:
    # At most one row of p and one of q is read whole.
    rows, _, vocabulary = q.shape
    return Traffic(8 * rows * vocabulary + 3 * draft.nbytes + 40 * rows, 3 * rows * vocabulary)


VERIFY_MATCH = Kernel(
    name="verify_match",
    source="verify.cu",
    instances=(_MATCH,),
    outputs=("tokens", "count"),
    plan=_plan_match,
    reference=_match,
    traffic=_match_traffic,
)
VERIFY_REJECT = Kernel(
    name="verify_reject",
    source="verify.cu",
    instances=(instance("verify_reject", str(_THREADS)),),
    outputs=("tokens", "count"),
    plan=_plan_reject,
    reference=_reject,
    traffic=_reject_traffic,
)
