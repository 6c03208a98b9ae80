"""The responses of one decoupled request, told to the statistics in handfuls."""

from operator import sub

from penstock_runtime.observability.response_table import Outcome, Run
from penstock_runtime.observability.statistics import ModelStatistics


class ResponseTally:
    """Whoever sends responses appends to `ready_ns` when each of them was there, tells of the first
    at once, and of the others now and then. From `since_ns` on the model was at work.

    How long a response took on its way out is measured for the last of a handful and taken to be
    the same for the others, whose time is thereby divided between model and output; its sum is
    exact.
    """

    __slots__ = (
        "_arrived_ns",
        "_each_ns",
        "_since_ns",
        "_statistics",
        "output_ns",
        "ready_ns",
        "told",
    )

    def __init__(self, statistics: ModelStatistics, arrived_ns: int, since_ns: int) -> None:
        self._statistics = statistics
        self._arrived_ns = arrived_ns
        self._since_ns = since_ns
        self._each_ns = 0
        self.ready_ns: list[int] = []
        self.told = 0
        self.output_ns = 0

    def tell(self, sent_ns: int, now_ns: int) -> None:
        """Tell what there is; the last was on its way at `sent_ns`, and the model is at work again
        from `now_ns` on.
        """
        last = self.ready_ns[-1]
        self._each_ns = sent_ns - last
        self._tell(now_ns - last)
        self._since_ns = now_ns

    def end(self, now_ns: int, outcome: Outcome | None) -> None:
        """Tell what is left once the model has ended, which nothing was measured for, and how it
        ended: what came in place of one more response had no outputs. None if the request goes on.
        """
        since_ns = self._since_ns
        if self.ready_ns:
            # No longer than until now, or the model would have taken less than nothing.
            last_ns = self.ready_ns[-1]
            output_ns = min(self._each_ns, now_ns - last_ns)
            self._tell(output_ns)
            since_ns = last_ns + output_ns
        if outcome is not None:
            self._statistics.record_response(self.told, max(now_ns - since_ns, 0), 0, outcome)

    def _tell(self, last_output_ns: int) -> None:
        ready = self.ready_ns
        if len(ready) == 1:
            first_ns = ready[0] - self._arrived_ns if self.told == 0 else None
            infer_ns = ready[0] - self._since_ns
            self._statistics.record_response(
                self.told, infer_ns, last_output_ns, "success", first_ns
            )
            self.output_ns += last_output_ns
        else:
            self._tell_run(last_output_ns)
        self.told += len(ready)
        ready.clear()

    def _tell_run(self, last_output_ns: int) -> None:
        ready_ns = self.ready_ns
        gaps_ns = list(map(sub, ready_ns[1:], ready_ns))
        # No longer than from one response to the next, or a model would take less than nothing.
        each_ns = min(self._each_ns, *gaps_ns)
        first_ns = ready_ns[0] - self._since_ns
        self._statistics.record_run(Run(self.told, first_ns, gaps_ns, each_ns, last_output_ns))
        self.output_ns += each_ns * len(gaps_ns) + last_output_ns
