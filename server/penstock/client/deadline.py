"""The deadline of one call, and what to do between its attempts. Pure: the time is given."""

import math
from dataclasses import dataclass

from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

NS = 1_000_000_000
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Deadline:
    """A monotonic nanosecond after which nobody waits (None: never), `timeout_s` from its start."""

    at_ns: int | None
    timeout_s: float

    @classmethod
    def after(cls, timeout_s: float, now: int) -> "Deadline":
        """The deadline `timeout_s` from now; math.inf means none."""
        if math.isnan(timeout_s) or timeout_s <= 0:
            raise ValueError(f"timeout is {timeout_s} s, expected more than 0 (math.inf for none)")
        return cls(None if math.isinf(timeout_s) else now + int(timeout_s * NS), timeout_s)

    def remaining_s(self, now: int) -> float | None:
        """Seconds that are left, at least a moment so that the call itself says it is too late."""
        return None if self.at_ns is None else max((self.at_ns - now) / NS, 1e-3)

    def passed(self, now: int) -> bool:
        """Whether it is too late."""
        return self.at_ns is not None and now >= self.at_ns


def not_ready_yet(error: InferenceError) -> bool:
    """Whether an error while waiting for a server only says that it is still coming up."""
    return error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED)


def never_ready(model: str, target: str, deadline: Deadline) -> InferenceError:
    """The error of a wait that was in vain."""
    what = f"model '{model}'" if model else "the server"
    text = f"{what} at {target} was not ready within {deadline.timeout_s:g} s"
    return InferenceError(Status.DEADLINE_EXCEEDED, text)
