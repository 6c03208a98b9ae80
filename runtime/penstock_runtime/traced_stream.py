"""The stream of a request that is traced: passes everything on to the request's own, and notes when
it was answered and how it ended.

`follow` is called where requests find their models, so it sees those of clients, of ensembles and
of models' code alike.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from penstock_runtime.errors import PenstockError, Status
from penstock_runtime.observability.trace_tensors import BACKEND_OUTPUT, QUEUE_INPUT
from penstock_runtime.observability.tracing import (
    COMPUTE_START,
    QUEUE_START,
    Execution,
    Trace,
    batch_context,
)
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import Inbox, OneOutput, ResponseStream
from penstock_runtime.tensor import Tensor

_clock = time.monotonic_ns


class TracedStream(ResponseStream):
    """Stands before the stream of a traced request."""

    def __init__(self, trace: Trace, target: ResponseStream) -> None:
        # The base is not initialised: everything is the target's.
        self.inbox: Inbox = target.inbox
        self.trace = trace
        self._target = target
        self.wants_timing = True
        self.placed = target.placed

    # -- producer side ---------------------------------------------------------------------------

    def put(self, response: InferResponse) -> bool:
        """Pass the response on."""
        self._told(response)
        return self._target.put(response)

    def ready(self, response: InferResponse) -> Callable[[], object]:
        """As the target's; it is noted when it is given."""
        answer = self._target.ready(response)

        def give() -> object:
            self._told(response)
            return answer()

        return give

    def _told(self, response: InferResponse) -> None:
        self._note(response.model_version, response.timing)
        if not response.empty:
            self.trace.responded(_clock())
            self.trace.tensors(BACKEND_OUTPUT, response.outputs)
        if response.final:
            self._over()

    def put_only(self, kind: OneOutput, identity: str, array: Any, timing: Timing | None) -> bool:
        """As `put`; the target may have a shorter way to encode it."""
        self._note(kind.model_version, timing)
        self.trace.responded(_clock())
        output = Tensor(kind.output, kind.datatype, array.shape, array)
        self.trace.tensors(BACKEND_OUTPUT, (output,))
        self._over()
        return self._target.put_only(kind, identity, array, timing)

    def _note(self, version: str, timing: Timing | None) -> None:
        self.trace.model_version = version
        if timing is not None and timing.cache_hit:
            self.trace.cache_hit = True

    def _over(self) -> None:
        # Before the answer: whoever has that finds its trace among those that are to be written.
        status = Status.CANCELLED if self._target.cancelled else None
        self.trace.finish(_clock(), status, "the request was cancelled" if status else "")

    def fail(self, error: PenstockError) -> bool:
        """End with an error."""
        self.trace.finish(_clock(), error.status, error.message)
        return self._target.fail(error)

    def close(self) -> bool:
        """End without a further response."""
        self._over()
        return self._target.close()

    def wait_for_room(self, timeout_s: float) -> bool:
        """As the target does."""
        return self._target.wait_for_room(timeout_s)

    def post(self) -> None:
        """Wake the consumer."""
        self._target.post()

    # -- both sides ------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:  # type: ignore[override] # read-only: it is the target's
        """Whether the consumer gave up."""
        return self._target.cancelled

    @property
    def ended(self) -> bool:
        """Whether the last answer has been put."""
        return self._target.ended

    def soon(self, callback: Callable[[], None]) -> None:
        """As the target does."""
        self._target.soon(callback)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this if the consumer gives up."""
        self._target.on_cancel(callback)

    def cancel(self) -> None:
        """The consumer gives up."""
        self._target.cancel()

    def __repr__(self) -> str:
        return f"<TracedStream of {self._target!r}>"


def follow(trace: Trace, request: InferRequest, stream: ResponseStream) -> TracedStream:
    """The stream to answer the request through, which is about to be queued."""
    trace.tensors(QUEUE_INPUT, request.inputs)
    trace.mark(QUEUE_START, _clock())
    return TracedStream(trace, stream)


def note_execution(members: Sequence[Pending], timings: Sequence[Timing | None], rows: int) -> None:
    """Tell the traced ones of these, which were executed together, when and in what company.

    Called before they are answered; only those that have a timing can be traced.
    """
    traced = [
        (pending, timing)
        for pending, timing in zip(members, timings, strict=True)
        if timing is not None and pending.trace is not None
    ]
    if not traced:
        return
    contexts = tuple(p.trace.context for p, _ in traced if p.trace and p.trace.context)
    pending, timing = traced[0]
    start = pending.arrived_ns + timing.queue_ns
    merged = start + timing.compute_input_ns
    execution = Execution(
        timing.instance,
        rows,
        len(members),
        start,
        merged,
        merged + timing.compute_infer_ns,
        _clock(),
        batch_context(contexts),
        contexts,
    )
    for pending, _ in traced:
        if pending.trace is not None:
            pending.trace.executed(execution)


def note_failure(pending: Pending, start_ns: int | None) -> None:
    """An execution that began then failed."""
    if start_ns is not None and pending.trace is not None:
        pending.trace.mark(COMPUTE_START, start_ns)
