"""Counts of requests over HTTP, by route and status, and their lines in the access log."""

import threading
import time
from collections.abc import Iterable

from penstock.observer import access_entry
from penstock.rest.call import HttpCall
from penstock.rest.route import Route
from penstock.rpc import Category, Rpc
from penstock_runtime.observability.access_log import AccessLog
from penstock_runtime.observability.histogram import Histogram
from penstock_runtime.observability.metrics import Family, Sample, histogram_samples

UNKNOWN = "unknown"
# 0.1 ms to 50 s.
_BOUNDS_NS = tuple(step * 10**decade for decade in range(5, 11) for step in (1, 2, 5))
_ROW = Rpc("http", "request", Category.INFERENCE, "")


class _Counts:
    """What is counted of one route."""

    __slots__ = ("by_code", "labels", "seconds")

    def __init__(self, method: str, path: str) -> None:
        self.labels = {"method": method, "route": path}
        self.by_code: dict[int, int] = {}
        self.seconds = Histogram(_BOUNDS_NS)


class HttpObserver:
    """Told of every request once it is over. The labels are those of the routes: a caller makes no
    new ones. Lives on the loop; `families` may be called from any thread.
    """

    def __init__(self, routes: Iterable[Route], access: AccessLog, *, counted: bool) -> None:
        self._access = access
        self._counted = counted
        self._counts = {route.title: _Counts(route.method, route.path) for route in routes}
        self._unknown = _Counts(UNKNOWN, UNKNOWN)
        self._lock = threading.Lock()

    def finished(
        self, call: HttpCall, code: int, status: str, started_ns: int, size: int, sent: int
    ) -> None:
        """A request ended with this status, after so many bytes in and out."""
        duration_ns = time.monotonic_ns() - started_ns
        if self._counted:
            self._count(call.method, code, duration_ns)
        if self._access.enabled and self._access.wants(status == "OK"):
            entry = access_entry(_ROW, call, status, duration_ns, size, sent)
            self._access.record(entry._replace(rpc=call.method))

    def _count(self, title: str, code: int, duration_ns: int) -> None:
        counts = self._counts.get(title, self._unknown)
        with self._lock:
            counts.by_code[code] = counts.by_code.get(code, 0) + 1
            counts.seconds.observe(duration_ns)

    def families(self) -> list[Family]:
        """The counts as a scrape shows them; a route appears with its first request."""
        requests: list[Sample] = []
        seconds: list[Sample] = []
        with self._lock:
            for counts in (*self._counts.values(), self._unknown):
                requests += _samples(counts)
                snapshot = counts.seconds.snapshot()
                if snapshot.count:
                    seconds += histogram_samples(counts.labels, snapshot, 1e9)
        return [
            Family(
                "penstock_http_requests_total",
                "counter",
                "Requests over HTTP, by route and status",
                tuple(requests),
            ),
            Family(
                "penstock_http_request_seconds",
                "histogram",
                "Seconds from a request over HTTP to the end of its answer",
                tuple(seconds),
            ),
        ]


def _samples(counts: _Counts) -> list[Sample]:
    """How often each status was given."""
    return [
        Sample(number, {**counts.labels, "code": str(code)})
        for code, number in sorted(counts.by_code.items())
    ]
