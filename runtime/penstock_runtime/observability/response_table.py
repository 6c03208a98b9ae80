"""The responses of decoupled requests, counted by their index within the request.

Not thread-safe: whoever owns a table guards it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import add
from types import MappingProxyType
from typing import Literal, NamedTuple

from penstock_runtime.errors import Cancelled
from penstock_runtime.observability.snapshot import Duration, ResponseStatistics

Outcome = Literal["success", "fail", "empty", "cancel"]

# A decoupled request may get any number of responses; what is kept per index may not grow with
# them.
RESPONSE_INDEX_LIMIT = 1000


def outcome_of(error: BaseException) -> Outcome:
    """What a request that ended with this error had in place of a last response."""
    return "cancel" if isinstance(error, Cancelled) else "fail"


class DurationSum:
    """A duration that grows."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.count += 1
        self.ns += ns

    def add_all(self, count: int, ns: int) -> None:
        """So many more that took this together."""
        self.count += count
        self.ns += ns

    def freeze(self) -> Duration:
        """What it is now."""
        return Duration(self.count, self.ns)


class Run(NamedTuple):
    """Successful responses of one request that followed each other.

    The model worked `first_ns` on the first, which has index `first_index`; the next was ready
    `gaps_ns[0]` after that, and so on. Each took `each_ns` on its way out, the last one `last_ns`.
    """

    first_index: int
    first_ns: int
    gaps_ns: Sequence[int]
    each_ns: int
    last_ns: int

    @property
    def size(self) -> int:
        """How many responses there are."""
        return len(self.gaps_ns) + 1

    @property
    def infer_ns(self) -> int:
        """The nanoseconds of the model in all of them."""
        return self.first_ns + sum(self.gaps_ns) - self.each_ns * len(self.gaps_ns)

    @property
    def output_ns(self) -> int:
        """The nanoseconds on their way out."""
        return self.each_ns * len(self.gaps_ns) + self.last_ns

    def split(self, index: int) -> tuple["Run", "Run"]:
        """The responses before this index, and those from it on; both must be some."""
        first, first_ns, gaps_ns, each_ns, last_ns = self
        at = index - first
        left, right = gaps_ns[: at - 1], gaps_ns[at:]
        return (
            Run(first, first_ns, left, each_ns, each_ns),
            Run(index, gaps_ns[at - 1] - each_ns, right, each_ns, last_ns),
        )


class _Responses:
    """The responses of one index."""

    __slots__ = ("cancel", "compute_infer", "compute_output", "empty", "fail", "success")

    def __init__(self) -> None:
        self.compute_infer = DurationSum()
        self.compute_output = DurationSum()
        self.success = DurationSum()
        self.fail = DurationSum()
        self.empty = DurationSum()
        self.cancel = DurationSum()

    def add(self, infer_ns: int, output_ns: int, outcome: Outcome) -> None:
        if outcome == "empty":
            self.empty.add(infer_ns)
        elif outcome == "cancel":
            self.cancel.add(infer_ns)
        else:
            self.compute_infer.add(infer_ns)
            self.compute_output.add(output_ns)
            (self.success if outcome == "success" else self.fail).add(infer_ns + output_ns)

    def add_run(self, run: Run) -> None:
        count = run.size
        self.compute_infer.add_all(count, run.infer_ns)
        self.compute_output.add_all(count, run.output_ns)
        self.success.add_all(count, run.infer_ns + run.output_ns)

    def freeze(self, count: int, infer_ns: int, output_ns: int) -> ResponseStatistics:
        """What it is now, with so many successes more."""
        infer, output, success = self.compute_infer, self.compute_output, self.success
        return ResponseStatistics(
            compute_infer=Duration(infer.count + count, infer.ns + infer_ns),
            compute_output=Duration(output.count + count, output.ns + output_ns),
            success=Duration(success.count + count, success.ns + infer_ns + output_ns),
            fail=self.fail.freeze(),
            empty_response=self.empty.freeze(),
            cancel=self.cancel.freeze(),
        )


class _Runs:
    """The sums of many runs per index. Adding one costs a loop in C over its gaps: what is the
    same for all of a run is kept as steps from one index to the next.
    """

    def __init__(self) -> None:
        size = RESPONSE_INDEX_LIMIT + 2
        self._count_steps = [0] * size
        # From one response to the next: time in the model and on the way of the former.
        self._gap_ns = [0] * size
        self._each_steps = [0] * size
        self._last_ns = [0] * size

    def add(self, run: Run) -> None:
        first, first_ns, gaps_ns, each_ns, last_ns = run
        second, stop = first + 1, first + 1 + len(gaps_ns)
        sums = self._gap_ns
        sums[first] += first_ns
        sums[second:stop] = map(add, sums[second:stop], gaps_ns)
        self._count_steps[first] += 1
        self._count_steps[stop] -= 1
        self._each_steps[second] += each_ns
        self._each_steps[stop] -= each_ns
        self._last_ns[stop - 1] += last_ns

    def sums(self) -> dict[int, tuple[int, int, int]]:
        """Per index with responses: how many, nanoseconds in the model and on the way out."""
        counts, each = list(accumulate(self._count_steps)), list(accumulate(self._each_steps))
        return {
            index: (
                count,
                self._gap_ns[index] - each[index],
                each[index + 1] + self._last_ns[index],
            )
            for index, count in enumerate(counts)
            if count
        }


_NONE = _Responses()


class ResponseTable:
    """What is known of the responses of each index; all beyond the limit share one."""

    def __init__(self) -> None:
        self._single: dict[int, _Responses] = {}
        # Made when there is a run: most models are not decoupled.
        self._runs: _Runs | None = None

    def add(self, index: int, infer_ns: int, output_ns: int, outcome: Outcome) -> None:
        """Count one response."""
        self._at(index).add(infer_ns, output_ns, outcome)

    def _at(self, index: int) -> _Responses:
        key = min(index, RESPONSE_INDEX_LIMIT)
        responses = self._single.get(key)
        if responses is None:
            responses = self._single[key] = _Responses()
        return responses

    def add_run(self, run: Run) -> None:
        """Count successful responses that followed each other in one request."""
        if run.first_index >= RESPONSE_INDEX_LIMIT:
            self._at(run.first_index).add_run(run)
        elif run.first_index + run.size > RESPONSE_INDEX_LIMIT:
            for part in run.split(RESPONSE_INDEX_LIMIT):
                self.add_run(part)
        else:
            if self._runs is None:
                self._runs = _Runs()
            self._runs.add(run)

    def freeze(self) -> Mapping[str, ResponseStatistics]:
        """The responses of every index that had any."""
        runs = {} if self._runs is None else self._runs.sums()
        return MappingProxyType(
            {
                str(index): self._single.get(index, _NONE).freeze(*runs.get(index, (0, 0, 0)))
                for index in sorted(self._single.keys() | runs.keys())
            }
        )
