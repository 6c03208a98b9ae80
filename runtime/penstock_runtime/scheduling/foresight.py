"""Whether a request that comes now would be executed before its caller's deadline: by what waits
before it, and how long executions take. Asked under the lock of the batcher.
"""

from collections.abc import Sequence

from penstock_runtime.scheduling.base import Batcher, Pending
from penstock_runtime.scheduling.predictor import WaitPredictor
from penstock_runtime.scheduling.queue import expired_deadline


def admit(
    batcher: Batcher,
    predictor: WaitPredictor,
    instances: int,
    pending: Pending,
    deadline_ns: int,
    now: int,
) -> None:
    """Raise the error of what cannot make its deadline, or has missed it already."""
    if deadline_ns <= now:
        raise expired_deadline(pending, now)
    ahead = batcher.rows_ahead(pending)
    wait = predictor.wait_ns(ahead, batcher.rows_per_batch(), instances)
    refusal = predictor.refusal(now, deadline_ns, wait)
    if refusal is not None:
        raise refusal


def in_time(
    batcher: Batcher,
    predictor: WaitPredictor,
    instances: int,
    pendings: Sequence[Pending],
    deadline_ns: int,
    now: int,
) -> bool:
    """Whether even the last of these would be executed before their first deadline."""
    ahead = batcher.rows_ahead(pendings[-1]) + sum(p.batch_size for p in pendings)
    wait = predictor.wait_ns(ahead, batcher.rows_per_batch(), instances)
    return deadline_ns > now and predictor.refusal(now, deadline_ns, wait) is None
