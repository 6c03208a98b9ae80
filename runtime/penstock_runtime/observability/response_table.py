"""The responses of decoupled requests, counted by their index within the request.

Not thread-safe: whoever owns a table guards it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_runtime.observability.snapshot import Duration, ResponseStatistics

Outcome = Literal["success", "fail", "empty", "cancel"]
Nanoseconds = NDArray[np.int64]

# A decoupled request may get any number of responses; what is kept per index may not grow with
# them.
RESPONSE_INDEX_LIMIT = 1000


class DurationSum:
    """A duration that grows."""

    __slots__ = ("count", "ns")

    def __init__(self, count: int = 0, ns: int = 0) -> None:
        self.count = count
        self.ns = ns

    def add(self, ns: int) -> None:
        """One more."""
        self.count += 1
        self.ns += ns

    def freeze(self) -> Duration:
        """What it is now."""
        return Duration(self.count, self.ns)


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


_NONE = _Responses()


class ResponseTable:
    """What is known of the responses of each index; all beyond the limit share one."""

    def __init__(self) -> None:
        self._odd: dict[int, _Responses] = {}
        # Per index of the responses that were counted in runs: how many, and the nanoseconds of
        # model and output. Made when there is a run: most models are not decoupled.
        self._runs: Any = None

    def add(self, index: int, infer_ns: int, output_ns: int, outcome: Outcome) -> None:
        """Count one response."""
        key = min(index, RESPONSE_INDEX_LIMIT)
        responses = self._odd.get(key)
        if responses is None:
            responses = self._odd[key] = _Responses()
        responses.add(infer_ns, output_ns, outcome)

    def add_run(self, first_index: int, infer_ns: Nanoseconds, output_ns: Nanoseconds) -> None:
        """Count successful responses that followed each other in one request."""
        if self._runs is None:
            self._runs = np.zeros((3, RESPONSE_INDEX_LIMIT + 1), np.int64)
        runs, size = self._runs, len(infer_ns)
        inside = min(size, max(RESPONSE_INDEX_LIMIT - first_index, 0))
        if inside:
            stop = first_index + inside
            runs[0, first_index:stop] += 1
            runs[1, first_index:stop] += infer_ns[:inside]
            runs[2, first_index:stop] += output_ns[:inside]
        if inside < size:
            beyond = size - inside, int(infer_ns[inside:].sum()), int(output_ns[inside:].sum())
            runs[:, RESPONSE_INDEX_LIMIT] += beyond

    def freeze(self) -> Mapping[str, ResponseStatistics]:
        """The responses of every index that had any."""
        runs = {} if self._runs is None else self._run_sums()
        return MappingProxyType(
            {
                str(index): self._odd.get(index, _NONE).freeze(*runs.get(index, (0, 0, 0)))
                for index in sorted(self._odd.keys() | runs.keys())
            }
        )

    def _run_sums(self) -> dict[int, tuple[int, int, int]]:
        sums = self._runs.T.tolist()
        return {index: tuple(sums[index]) for index in np.flatnonzero(self._runs[0]).tolist()}
