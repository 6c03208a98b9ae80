"""The errors of requests that end without an execution because somebody left: their callers, or the
version that they came to.
"""

from penstock_runtime.errors import PenstockError
from penstock_runtime.scheduling.base import Pending, Retired
from penstock_runtime.scheduling.dynamic_batcher import cancelled_error
from penstock_runtime.scheduling.queue import expired_deadline

# The caller's clock is ahead of ours by as long as the request travelled, and whoever expires
# cancels: a cancellation in the last tenth of a caller's time (of so many nanoseconds at least and
# at most) is an expiry.
MIN_SLACK_NS, MAX_SLACK_NS = 10_000_000, 250_000_000


def given_up(pending: Pending, now: int) -> PenstockError:
    """The error of a request that was cancelled now and had not been executed."""
    return expired_deadline(pending, now) if _expired(pending, now) else cancelled_error()


def _expired(pending: Pending, now: int) -> bool:
    """Whether a request that was cancelled now was cancelled because its time was over."""
    deadline = pending.deadline_ns
    if deadline is None:
        return False
    tenth = (deadline - pending.arrived_ns) // 10
    return now + min(max(tenth, MIN_SLACK_NS), MAX_SLACK_NS) >= deadline


def retired() -> Retired:
    """The error of a request that comes, or still waits, when this version goes."""
    return Retired(
        "Server is stopping, scheduler for model has stopped accepting new inference requests",
        reason="STOPPING",
        scheduled=True,
    )
