"""Counts of RPCs under the names that gRPC dashboards know: grpc_server_*."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock_runtime.observability.histogram import Histogram
from penstock_runtime.observability.metrics import Family, Sample, histogram_samples

RpcType = Literal["unary", "client_stream", "server_stream", "bidi_stream"]

CODES = frozenset(
    {
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    }
)

# 0.1 ms to 50 s.
_BOUNDS_NS = tuple(step * 10**decade for decade in range(5, 11) for step in (1, 2, 5))

_UNKNOWN = "/unknown/unknown"


_MOST_HELD = 512


class _Method:
    """The counts of one method; `held` are the durations (ns) of successes not yet in them."""

    __slots__ = ("handled", "held", "labels", "seconds", "started")

    def __init__(self, path: str, kind: RpcType) -> None:
        service, _, method = path.strip("/").rpartition("/")
        self.labels = {"grpc_method": method, "grpc_service": service, "grpc_type": kind}
        self.started = 0
        self.handled = {"OK": 0}
        self.seconds = Histogram(_BOUNDS_NS)
        self.held: list[int] = []

    def settle(self) -> None:
        """Count what is held; under the lock, while the method's own thread may add more."""
        number = len(self.held)
        held = self.held[:number]
        del self.held[:number]
        self.handled["OK"] += number
        self.seconds.observe_all(held)


class MethodCounts:
    """Counts the calls of one method that all begin and end in one thread: no lock for each."""

    __slots__ = ("_lock", "_method")

    def __init__(self, method: _Method, lock: threading.Lock) -> None:
        self._method = method
        self._lock = lock

    def started(self) -> None:
        """Count a call that begins."""
        self._method.started += 1

    def succeeded(self, durations_ns: Sequence[int]) -> None:
        """Count calls that ended with OK after so long."""
        held = self._method.held
        held += durations_ns
        if len(held) >= _MOST_HELD:
            with self._lock:
                self._method.settle()


@dataclass(frozen=True, slots=True)
class _Counts:
    """The families under construction."""

    started: list[Sample]
    handled: list[Sample]
    seconds: list[Sample]


class RpcMetrics:
    """Counts the calls of a table of methods (full path such as "/package.Service/Method", type).

    A path that is not in the table is counted as `unknown`: a caller may not make new series.
    """

    def __init__(self, methods: Mapping[str, RpcType]) -> None:
        self._lock = threading.Lock()
        self._methods = {path: _Method(path, kind) for path, kind in methods.items()}
        self._unknown = _Method(_UNKNOWN, "unary")

    def started(self, method: str) -> None:
        """Count a call that begins."""
        found = self._methods.get(method, self._unknown)
        with self._lock:
            found.started += 1

    def handled(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended with this status (gRPC's name) after so many seconds."""
        found = self._methods.get(method, self._unknown)
        code = code if code in CODES else "UNKNOWN"
        with self._lock:
            found.handled[code] = found.handled.get(code, 0) + 1
            found.seconds.observe(int(seconds * 1e9))

    def counts(self, method: str) -> MethodCounts:
        """What counts this method's calls, all of them from one and the same thread."""
        return MethodCounts(self._methods.get(method, self._unknown), self._lock)

    def families(self) -> list[Family]:
        """The three families; a method's histogram appears with its first call."""
        counts = _Counts([], [], [])
        with self._lock:
            for method in self._told():
                method.settle()
                _tell(method, counts)
        return [
            _family("grpc_server_started_total", "RPCs started", counts.started),
            _family("grpc_server_handled_total", "RPCs completed, by status", counts.handled),
            Family(
                "grpc_server_handling_seconds",
                "histogram",
                "Seconds from the start of an RPC to its end",
                tuple(counts.seconds),
            ),
        ]

    def _told(self) -> Iterator[_Method]:
        yield from self._methods.values()
        if self._unknown.started:
            yield self._unknown

    def __repr__(self) -> str:
        return f"RpcMetrics({len(self._methods)} methods)"


def _tell(method: _Method, counts: _Counts) -> None:
    counts.started.append(Sample(method.started, method.labels))
    counts.handled.extend(
        Sample(number, {**method.labels, "grpc_code": code})
        for code, number in sorted(method.handled.items())
    )
    seconds = method.seconds.snapshot()
    if seconds.count:
        counts.seconds.extend(histogram_samples(method.labels, seconds, 1e9))


def _family(name: str, help_: str, samples: list[Sample]) -> Family:
    return Family(name, "counter", help_, tuple(samples))
