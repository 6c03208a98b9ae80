"""A request as models see it, and as they make it to call other models."""

from collections.abc import Coroutine, Sequence
from typing import Any, Literal, overload

from penstock_runtime.backends.base import RequestTask
from penstock_runtime.backends.triton_python import calls
from penstock_runtime.backends.triton_python.constants import (
    TRITONSERVER_REQUEST_RELEASE_ALL,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
)
from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.backends.triton_python.iterator import ResponseIterator
from penstock_runtime.backends.triton_python.parameters import as_json, read_parameters
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.sender import InferenceResponseSender
from penstock_runtime.backends.triton_python.tensor import Tensor
from penstock_runtime.backends.triton_python.values import InferenceTrace, PreferredMemory
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import Parameters


class InferenceRequest:
    """Inputs and what is wanted of them; `model_version` -1 is the latest."""

    __slots__ = (
        "_correlation_id",
        "_flags",
        "_inputs",
        "_model_name",
        "_model_version",
        "_outputs",
        "_parameters",
        "_preferred_memory",
        "_release_flags",
        "_request_id",
        "_sender",
        "_task",
        "_timeout",
        "_trace",
    )

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: Any = None,
    ) -> None:
        if isinstance(correlation_id, bool) or not isinstance(correlation_id, int | str):
            raise TritonModelException("Correlation ID must be integer or string")
        for tensor in inputs:
            if not isinstance(tensor, Tensor):
                raise TritonModelException(
                    f"an input is a {type(tensor).__name__}, expected a Tensor"
                )
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._outputs = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._timeout = timeout
        self._preferred_memory = preferred_memory or PreferredMemory()
        self._trace = trace or InferenceTrace()
        self._parameters: Parameters = read_parameters(parameters)
        self._task: RequestTask | None = None
        self._sender: InferenceResponseSender | None = None
        self._release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
        self.set_flags(flags)

    # -- what it says ----------------------------------------------------------------------------

    def inputs(self) -> list[Tensor]:
        """The inputs."""
        return self._inputs

    def request_id(self) -> str:
        """The id that the caller gave, "" for none."""
        return self._request_id

    def correlation_id(self) -> int | str:
        """The sequence that it belongs to; 0 or "" for none."""
        return self._correlation_id

    def requested_output_names(self) -> list[str]:
        """The outputs that are wanted."""
        return self._outputs

    def model_name(self) -> str:
        """The model that is asked."""
        return self._model_name

    def model_version(self) -> int:
        """Its version, -1 for the latest."""
        return self._model_version

    def flags(self) -> int:
        """TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        """Set the flags."""
        self._flags = int(flags)

    def timeout(self) -> int:
        """How long it may wait in microseconds, 0 for the model's default."""
        return self._timeout

    def preferred_memory(self) -> PreferredMemory:
        """Where the outputs should lie."""
        return self._preferred_memory

    def parameters(self) -> str:
        """The parameters as JSON text."""
        return as_json(self._parameters)

    def trace(self) -> InferenceTrace:
        """The trace that it belongs to."""
        return self._trace

    # -- as what a model was handed ----------------------------------------------------------------

    def get_response_sender(self) -> InferenceResponseSender:
        """What the request is answered by, from any thread."""
        if self._sender is None:
            raise TritonModelException("only a request that a model was handed has a sender")
        return self._sender

    def is_cancelled(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._task is not None and self._task.abandoned

    def set_release_flags(self, flags: int) -> None:
        """What becomes of the request after `execute`: TRITONSERVER_REQUEST_RELEASE_ALL, or, in an
        iterative sequence, ..._RELEASE_RESCHEDULE.
        """
        again = flags == TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
        if not again and flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException(f"release flags are {flags}, expected 1 or 2")
        if again and self._task is None:
            raise TritonModelException("only a request that a model was handed is rescheduled")
        if self._task is not None:
            try:
                self._task.reschedule(again)
            except PenstockError as error:
                raise TritonModelException(error.message) from None
        self._release_flags = flags

    # -- as a call of another model ----------------------------------------------------------------

    @overload
    def exec(self, decoupled: Literal[False] = False) -> InferenceResponse: ...
    @overload
    def exec(self, decoupled: Literal[True]) -> ResponseIterator: ...
    def exec(self, decoupled: bool = False) -> InferenceResponse | ResponseIterator:
        """Have the model execute it: its response, errors included; of a decoupled model the
        responses as they come.
        """
        call = calls.begin(_order(self), decoupled=decoupled)
        return ResponseIterator(call) if decoupled else calls.single(call)

    @overload
    def async_exec(
        self, decoupled: Literal[False] = False
    ) -> Coroutine[Any, Any, InferenceResponse]: ...
    @overload
    def async_exec(self, decoupled: Literal[True]) -> Coroutine[Any, Any, ResponseIterator]: ...
    async def async_exec(self, decoupled: bool = False) -> InferenceResponse | ResponseIterator:
        """As `exec`, without holding up the loop."""
        call = calls.begin(_order(self), decoupled=decoupled, on_loop=True)
        return ResponseIterator(call) if decoupled else await calls.single_async(call)

    def __repr__(self) -> str:
        return f"InferenceRequest({self._request_id!r}, model_name={self._model_name!r})"


def handed_over(
    task: RequestTask, sender: InferenceResponseSender, inputs: list[Tensor], outputs: list[str]
) -> InferenceRequest:
    """The request of a task."""
    asked = task.request
    made = InferenceRequest.__new__(InferenceRequest)
    made._request_id = asked.id
    made._correlation_id = asked.correlation_id
    made._inputs = inputs
    made._outputs = [output.name for output in asked.outputs] if asked.outputs else outputs
    made._model_name = asked.model_name
    made._model_version = int(asked.model_version) if asked.model_version.isdigit() else -1
    made._flags = asked.sequence_start | asked.sequence_end << 1
    made._timeout = asked.timeout_us
    made._preferred_memory = _ANYWHERE
    made._trace = InferenceTrace(asked.trace.carrier if asked.trace is not None else None, task)
    made._parameters = asked.parameters
    made._task = task
    made._sender = sender
    made._release_flags = TRITONSERVER_REQUEST_RELEASE_ALL
    return made


_ANYWHERE = PreferredMemory()


def _order(request: InferenceRequest) -> calls.Order:
    if not request._model_name:
        raise TritonModelException("the request names no model to execute it")
    return calls.Order(
        request._model_name,
        request._model_version,
        request._request_id,
        tuple(request._inputs),
        tuple(request._outputs),
        request._parameters,
        request._correlation_id,
        request._flags,
        request._timeout,
        request._trace,
    )
