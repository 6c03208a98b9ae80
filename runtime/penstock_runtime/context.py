"""What a model may know of the request that it executes, and the little that it may say beside its
outputs.
"""

import time
from collections.abc import Mapping

from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.observability.tracing import Trace
from penstock_runtime.request import EMPTY, InferRequest, Parameter, Parameters
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream


class RequestContext:
    """One request, as its model sees it."""

    __slots__ = ("_request", "_stream", "spoken")

    def __init__(self, request: InferRequest, stream: ResponseStream) -> None:
        self._request = request
        self._stream = stream
        # What `response_parameters` gave; None while the model has not asked for it.
        self.spoken: dict[str, Parameter] | None = None

    @property
    def response_parameters(self) -> dict[str, Parameter]:
        """Parameters of the response, for the model to set."""
        if self.spoken is None:
            self.spoken = {}
        return self.spoken

    @response_parameters.setter
    def response_parameters(self, parameters: dict[str, Parameter]) -> None:
        self.spoken = parameters

    @property
    def said(self) -> Parameters:
        """The parameters that the model has set."""
        return self.spoken or EMPTY

    @property
    def id(self) -> str:
        """The id that the caller gave, "" for none."""
        return self._request.id

    @property
    def trace(self) -> Trace | None:
        """What is noted of the request, if it is traced: its `carrier` is for calls that the model
        makes, its `child` for requests to other models.
        """
        return self._request.trace

    @property
    def parameters(self) -> Parameters:
        """The request's custom parameters."""
        return self._request.parameters

    @property
    def headers(self) -> Mapping[str, str]:
        """The call's metadata, names in lower case."""
        return self._request.headers

    @property
    def deadline_ns(self) -> int | None:
        """The monotonic time after which nobody waits for the answer."""
        return self._request.deadline_ns

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up; a long-running model looks now and then and returns early."""
        return self._stream.cancelled

    @property
    def requested_outputs(self) -> tuple[str, ...]:
        """Names of the outputs asked for; empty means all."""
        return tuple(output.name for output in self._request.outputs)

    @property
    def batch_size(self) -> int:
        """How many rows of a merged batch are this request's; 1 where there is no batch."""
        inputs = self._request.inputs
        return inputs[0].shape[0] if inputs and inputs[0].shape else 1

    @property
    def sequence_id(self) -> int | str:
        """The correlation id; 0 or "" for a request that is part of no sequence."""
        return self._request.correlation_id

    @property
    def sequence_start(self) -> bool:
        """Whether the caller began a sequence with this request."""
        return self._request.sequence_start

    @property
    def sequence_end(self) -> bool:
        """Whether the caller ended a sequence with this request."""
        return self._request.sequence_end

    def reschedule(self) -> None:
        """Ask for a further step of this request; only for models with iterative_sequence: true."""
        raise Internal(
            "a request was rescheduled whose model does not say iterative_sequence: true",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )

    def time_remaining(self) -> float | None:
        """Seconds until the deadline (negative once past it); None without a deadline."""
        deadline = self._request.deadline_ns
        return None if deadline is None else (deadline - time.monotonic_ns()) / 1e9

    def __repr__(self) -> str:
        return f"RequestContext(id={self.id!r}, cancelled={self.cancelled})"


class PendingContext(RequestContext):
    """The same, for a request that is only made when somebody looks at it."""

    __slots__ = ("_pending",)

    def __init__(self, pending: Pending, stream: ResponseStream) -> None:
        self._pending = pending
        self._stream = stream
        self.spoken = None

    @property
    def batch_size(self) -> int:
        """How many rows of a merged batch are this request's; 1 where there is no batch."""
        return self._pending.batch_size

    @property
    def _request(self) -> InferRequest:  # type: ignore[override] # read-only, unlike the slot
        return self._pending.request

    @property
    def trace(self) -> Trace | None:
        """As for any request; it need not be made for that."""
        return self._pending.trace
