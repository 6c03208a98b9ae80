"""One model calls another: in this process, through the other's scheduler, the tensors where they
are. The call ends with whatever it is made for: cancelled, late or answered.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from penstock_runtime.backends.triton_python.constants import (
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
)
from penstock_runtime.backends.triton_python.failures import to_triton
from penstock_runtime.backends.triton_python.inboxes import TellingInbox, TellingLoopInbox
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.scope import Scope, current, services_of
from penstock_runtime.backends.triton_python.tensor import Tensor, array_of, datatype_of, foreign
from penstock_runtime.backends.triton_python.values import InferenceTrace, task_of
from penstock_runtime.dispatch import Dispatch, Serving
from penstock_runtime.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PenstockError,
    Unavailable,
    Unsupported,
)
from penstock_runtime.model_services import ModelServices
from penstock_runtime.observability.tracing import Trace
from penstock_runtime.request import InferRequest, InferResponse, Parameters, RequestedOutput
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor as Value
from penstock_runtime.wait_graph import Refusal, model_key

DEEPEST = 16
"""How many models' code may wait for each other in a row."""


class Order(NamedTuple):
    """What a model asks of another."""

    model: str
    version: int
    id: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str]
    parameters: Parameters
    correlation_id: int | str
    flags: int
    timeout_us: int
    trace: InferenceTrace


class Call:
    """One call under way; closed when it has been answered, or is given up."""

    def __init__(self, scope: Scope, services: ModelServices, *, on_loop: bool) -> None:
        self._scope = scope
        self._services = services
        loop = asyncio.get_running_loop() if on_loop else None
        self._inbox: TellingInbox | TellingLoopInbox = (
            TellingInbox(self._moved) if loop is None else TellingLoopInbox(self._moved, loop)
        )
        self._stream = ResponseStream(self._inbox)
        self._lock = threading.Lock()
        self._waits: frozenset[str] = frozenset()
        self._forget: list[Callable[[], Any]] = []
        self.error: PenstockError | None = None

    # -- its begin and end -------------------------------------------------------------------------

    def start(self, order: Order, *, decoupled: bool) -> None:
        """Have the model execute it; `error` says why it does not."""
        try:
            request, dispatch = _request(order, self._scope), self._services.dispatch
            request, model = self._find(request)
            if model.decoupled and not decoupled:
                raise Unsupported(
                    f"Model {order.model} is using the decoupled. The current BLS request call"
                    " doesn't support models using the decoupled transaction policy. Please use"
                    " 'decoupled=True' argument to the 'exec' or 'async_exec' calls for decoupled"
                    " models."
                )
            self._begin_to_wait(model, order.model)
            dispatch.infer(request, self._stream, model)
        except PenstockError as error:
            self._stream.close()
            self.error = error
            self.close()
            return
        for task in self._scope.tasks:
            self._forget.append(task.on_abandon(self._look))

    def _find(self, request: InferRequest) -> tuple[InferRequest, Serving]:
        """The model that serves a request, or goes on with its sequence, and the request by the
        name that it serves as: of several of a name that of the one beside the caller.
        """
        serving, host = self._services.dispatch.serving, self._scope.host
        try:
            return request, serving(request)
        except InvalidArgument as error:
            namespace, separator, _ = host.model.rpartition("::") if host else ("", "", "")
            if error.reason != "MODEL_AMBIGUOUS" or not separator:
                raise
            own = request._replace(model_name=f"{namespace}{separator}{request.model_name}")
            return own, serving(own)

    def close(self) -> None:
        """Nobody waits for it any more."""
        forget, self._forget = self._forget, []
        for callback in forget:
            callback()
        self._moved()
        self._stream.cancel()

    def _look(self) -> None:
        if self._scope.abandoned:
            self._stream.cancel()

    def _begin_to_wait(self, model: Serving, name: str) -> None:
        host = self._scope.host
        if host is None or not self._scope.blocks:
            return
        targets = _executors(self._services.dispatch, model)
        refusal = self._services.waits.begin(host.key, host, targets, host.name)
        if refusal is not None:
            raise _refused(refusal, host.model, name)
        self._waits = targets

    def _moved(self) -> None:
        """The call is being answered, or over: its instance does not wait for nothing."""
        with self._lock:
            targets, self._waits = self._waits, frozenset()
        host = self._scope.host
        if targets and host is not None:
            self._services.waits.end(host.key, host, targets, host.name)

    # -- its responses -----------------------------------------------------------------------------

    def responses(self) -> Iterator[InferResponse]:
        """The responses as they come, waited for in this thread. Raises the call's error.

        Closed at the end; whoever stops before that closes the call.
        """
        stream, gate = self._stream, self._inbox.gate
        try:
            while True:
                while (response := stream.pop()) is not None:
                    yield response
                if stream.exhausted:
                    break
                if not gate.wait(self._rest_s()) and self._late_by_now():
                    raise self._late()
        except PenstockError:
            self.close()
            raise
        self.close()

    async def responses_async(self) -> AsyncIterator[InferResponse]:
        """The same for a coroutine."""
        try:
            while (response := await self._next()) is not None:
                yield response
        except (PenstockError, asyncio.CancelledError):
            self.close()
            raise
        self.close()

    def visible(self, response: InferResponse) -> InferenceResponse:
        """A response as the calling model sees it: the arrays belong to the model that was called,
        or to its cache.
        """
        host = self._scope.host
        lending = host.lending if host is not None else None
        outputs = []
        for found in response.outputs:
            copies = lending is not None and lending.copied(found.array, alone=False)
            outputs.append(foreign(found.name, found.datatype, found.array, copies=copies))
        return InferenceResponse(outputs, None, response.parameters)

    async def _next(self) -> InferResponse | None:
        try:
            async with asyncio.timeout(self._rest_s()):
                return await self._stream.next()
        except TimeoutError:
            raise self._late() from None

    def _rest_s(self) -> float | None:
        """Seconds until nobody waits any more."""
        deadline = self._scope.deadline_ns
        return None if deadline is None else max(deadline - time.monotonic_ns(), 0) / 1e9

    def _late_by_now(self) -> bool:
        """Whether the deadline has passed: a gate also looks up now and then without one."""
        deadline = self._scope.deadline_ns
        return deadline is not None and time.monotonic_ns() >= deadline

    def _late(self) -> PenstockError:
        return DeadlineExceeded(
            "the deadline passed before the called model had answered", reason="DEADLINE_EXPIRED"
        )


def begin(order: Order, *, decoupled: bool, on_loop: bool = False) -> Call:
    """Start a call on behalf of whoever runs. TritonModelException where there is no server."""
    scope = current()
    parent = task_of(order.trace)
    if parent is not None and not scope.tasks:
        # A thread of the model's own, which says itself for which request it calls.
        scope = replace(scope, tasks=(parent,))
    call = Call(scope, services_of(scope, f"a call of model '{order.model}'"), on_loop=on_loop)
    call.start(order, decoupled=decoupled)
    return call


def single(call: Call) -> InferenceResponse:
    """The one response of a call, waited for in this thread; its error is inside."""
    try:
        if call.error is not None:
            raise call.error
        found = list(call.responses())
    except PenstockError as error:
        return failed(error)
    return _only(call, found)


async def single_async(call: Call) -> InferenceResponse:
    """The one response of a call, awaited; its error is inside."""
    try:
        if call.error is not None:
            raise call.error
        found = [response async for response in call.responses_async()]
    except PenstockError as error:
        return failed(error)
    return _only(call, found)


def _only(call: Call, found: Sequence[InferResponse]) -> InferenceResponse:
    if len(found) != 1:
        return failed(Internal(f"expected a single response, got {len(found)}"))
    return call.visible(found[0])


def failed(error: PenstockError) -> InferenceResponse:
    """The response of a call that failed."""
    return InferenceResponse([], to_triton(error))


def _refused(refusal: Refusal, caller: str, called: str) -> PenstockError:
    if not refusal.resource:
        return Unavailable(
            f"model '{caller}' cannot wait for model '{called}': every instance that could answer"
            " waits for this call itself",
            reason="CALLS_GO_ROUND",
        )
    return FailedPrecondition(
        f"model '{caller}' cannot wait for model '{called}': {refusal.needy} needs resource"
        f" '{refusal.resource}' of the rate limiter, of which {refusal.holder} holds too much until"
        " it has its own answer",
        reason="RESOURCE_IS_WAITED_WITH",
    )


def _request(order: Order, scope: Scope) -> InferRequest:
    depth = scope.depth + 1
    if depth > DEEPEST:
        raise Unavailable(
            f"the call of model '{order.model}' is the {depth}th in a row of models that wait for"
            f" each other, expected at most {DEEPEST}",
            reason="CALLS_GO_ROUND",
        )
    now = time.monotonic_ns()
    return InferRequest(
        order.model,
        tuple(map(_value, order.inputs)),
        "" if order.version < 0 else str(order.version),
        order.id,
        tuple(map(RequestedOutput, order.outputs)),
        order.parameters,
        deadline_ns=scope.deadline_ns,
        timeout_us=order.timeout_us,
        correlation_id=order.correlation_id,
        sequence_start=bool(order.flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
        sequence_end=bool(order.flags & TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
        received_ns=now,
        trace=_trace(order, scope, now),
        depth=depth,
    )


def _trace(order: Order, scope: Scope, now: int) -> Trace | None:
    """The trace of a call, if what it is made for is traced: what it says, or the one request."""
    task = task_of(order.trace)
    if task is None and len(scope.tasks) == 1:
        task = scope.tasks[0]
    parent = task.request.trace if task is not None else None
    return parent.child(order.model, now, order.id) if parent is not None else None


def _value(tensor: Tensor) -> Value:
    array = array_of(tensor)
    return Value(tensor.name(), datatype_of(tensor), tuple(array.shape), array)


def _executors(dispatch: Dispatch, model: Serving, depth: int = 0) -> frozenset[str]:
    """The models whose instances would work on a call: the steps of an ensemble, else itself."""
    config = getattr(model, "config", None)
    steps = config.ensemble_scheduling if config is not None else None
    if config is None or depth > DEEPEST:
        return frozenset()
    if steps is None:
        return frozenset({model_key(config.name, getattr(model, "version", ""))})
    found: set[str] = set()
    for step in steps.step:
        version = "" if step.model_version < 0 else str(step.model_version)
        found |= _executors(dispatch, dispatch.model(step.model_name, version), depth + 1)
    return frozenset(found)
