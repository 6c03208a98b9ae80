"""Watches every call: counts it, and writes the access line of unary ones.

Requests that come over a stream have lines of their own, which the stream's session writes.
"""

import time
from collections.abc import Sequence

from penstock.rpc import HEALTH_SERVICE, TABLE, Kind, Rpc
from penstock.transport.base import Call
from penstock_runtime.observability.access_log import AccessEntry, AccessLog, peer_host
from penstock_runtime.observability.rpc_metrics import MethodCounts, RpcMetrics, RpcType
from penstock_runtime.request import InferRequest, Timing

_NOT_EXECUTED = Timing()


def rpc_metrics() -> RpcMetrics:
    """Counts for every method of the table."""
    return RpcMetrics({rpc.path: _rpc_type(rpc) for rpc in TABLE})


class CallObserver:
    """Told by the guard of the handlers when a call starts and how it ended."""

    def __init__(self, metrics: RpcMetrics | None, access: AccessLog) -> None:
        self._metrics = metrics
        self._access = access

    @property
    def needed(self) -> bool:
        """Whether there is anything to do; without it calls are better not observed at all."""
        return self._metrics is not None or self._access.enabled

    def watch(self, rpc: Rpc) -> "CallWatch":
        """What is told of the calls of one method that begin and end on the loop."""
        counts = self._metrics.counts(rpc.path) if self._metrics is not None else None
        return CallWatch(self, rpc, counts, self._access)

    def started(self, rpc: Rpc, call: Call) -> None:  # noqa: ARG002 (the guard's protocol)
        """Count the call in."""
        if self._metrics is not None:
            self._metrics.started(rpc.path)

    def finished(
        self, rpc: Rpc, call: Call, code: str, duration_ns: int, size: int, sent: int
    ) -> None:
        """Count the call out and log it."""
        if self._metrics is not None:
            self._metrics.handled(rpc.path, code, duration_ns / 1e9)
        access = self._access
        if access.enabled and rpc.kind is Kind.UNARY and access.wants(code == "OK"):
            access.record(access_entry(rpc, call, code, duration_ns, size, sent))


class CallWatch:
    """Told of the calls of one method, at a fifth of the cost; only on the loop."""

    __slots__ = ("_access", "_counts", "_observer", "_rpc")

    def __init__(
        self, observer: CallObserver, rpc: Rpc, counts: MethodCounts | None, access: AccessLog
    ) -> None:
        self._observer = observer
        self._rpc = rpc
        self._counts = counts
        self._access = access

    def started(self) -> None:
        """Count a call in."""
        if self._counts is not None:
            self._counts.started()

    def finished(self, call: Call, code: str, duration_ns: int, size: int, sent: int) -> None:
        """Count a call out and log it."""
        if code != "OK" or self._access.enabled or self._counts is None:
            self._observer.finished(self._rpc, call, code, duration_ns, size, sent)
        else:
            self._counts.succeeded((duration_ns,))

    def succeeded(self, durations_ns: Sequence[int]) -> None:
        """Count calls out that ended with OK; for whoever knows that nothing is to be logged."""
        if self._counts is not None:
            self._counts.succeeded(durations_ns)


def access_entry(
    rpc: Rpc, call: Call, code: str, duration_ns: int, size: int, sent: int
) -> AccessEntry:
    """What the access log says of a call that took `duration_ns` and moved so many bytes."""
    request, response = call.request, call.response
    timing = (response.timing if response is not None else None) or _NOT_EXECUTED
    return AccessEntry(
        wall_ns=time.time_ns(),
        rpc=rpc.path,
        status=code,
        model=request.model_name if request is not None else "",
        version=response.model_version if response is not None else "",
        id=request.id if request is not None else "",
        trace_id=trace_id_of(request, call),
        peer=peer_host(call.peer),
        request_bytes=size,
        response_bytes=sent,
        batch_size=timing.batch_size,
        queue_ns=timing.queue_ns,
        compute_ns=timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns,
        total_ns=duration_ns,
    )


def trace_id_of(request: InferRequest | None, call: Call) -> str:
    """The id of the trace that a request is part of, ours or its caller's; "" if there is none."""
    traced = request.trace if request is not None else None
    own = traced.trace_id if traced is not None else ""
    return own or trace_id(call.metadata.get("traceparent", ""))


def trace_id(traceparent: str) -> str:
    """The trace's id in a W3C traceparent (`version-trace-parent-flags`), "" if there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def _rpc_type(rpc: Rpc) -> RpcType:
    if rpc.kind is Kind.UNARY:
        return "unary"
    return "server_stream" if rpc.service == HEALTH_SERVICE else "bidi_stream"
