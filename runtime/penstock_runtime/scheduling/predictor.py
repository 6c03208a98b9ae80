"""How long a request will wait: what admission goes by when the caller has a deadline. Pure."""

from penstock_runtime.errors import FailureReason, Unavailable

_WEIGHT = 0.2
_ENOUGH_OBSERVATIONS = 8


class WaitPredictor:
    """Learns how long an execution takes; predicts when a queue of rows will have been executed."""

    __slots__ = ("_fastest_ns", "mean_ns", "observations")

    def __init__(self) -> None:
        self.mean_ns = 0.0
        self._fastest_ns = 0.0
        self.observations = 0

    def observe(self, duration_ns: int, rows: int = 1) -> None:  # noqa: ARG002 - for models of it
        """Learn from one execution of so many rows."""
        self.observations += 1
        if self.observations == 1:
            self.mean_ns = self._fastest_ns = float(duration_ns)
            return
        self.mean_ns += _WEIGHT * (duration_ns - self.mean_ns)
        # The fastest creeps up, so that one lucky execution is not believed for ever.
        self._fastest_ns = min(
            duration_ns, self._fastest_ns + 0.02 * (duration_ns - self._fastest_ns)
        )

    def wait_ns(self, rows_ahead: int, rows_per_batch: int, instances: int) -> int:
        """Nanoseconds until an instance can begin with a row that has so many before it.

        Full batches run one after the other on each instance; the one under way is half done on
        average.
        """
        batches = rows_ahead // max(rows_per_batch, 1)
        return int(self.mean_ns * (batches + 0.5) / max(instances, 1))

    def refusal(self, now: int, deadline_ns: int, wait_ns: int) -> Unavailable | None:
        """The error for a request that cannot make its deadline even if its execution is a fast
        one.
        """
        if self.observations < _ENOUGH_OBSERVATIONS:
            return None
        needed = wait_ns + int(self._fastest_ns)
        if now + needed <= deadline_ns:
            return None
        return Unavailable(
            f"the deadline cannot be met: {needed / 1e6:.1f} ms needed, "
            f"{wait_ns / 1e6:.1f} ms of them in the queue, "
            f"and {(deadline_ns - now) / 1e6:.1f} ms left",
            reason="QUEUE_DEADLINE",
            retry_after_ns=wait_ns,
            failure=FailureReason.REJECTED,
            scheduled=True,
        )
