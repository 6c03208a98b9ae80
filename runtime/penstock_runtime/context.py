"""What a model may know of the request that it executes, and the little that it may say beside its
outputs.
"""

import time
from collections.abc import Mapping

from penstock_runtime.request import InferRequest, Parameter, Parameters
from penstock_runtime.stream import ResponseStream


class RequestContext:
    """One request, as its model sees it."""

    __slots__ = ("_request", "_stream", "response_parameters")

    def __init__(self, request: InferRequest, stream: ResponseStream) -> None:
        self._request = request
        self._stream = stream
        self.response_parameters: dict[str, Parameter] = {}

    @property
    def id(self) -> str:
        """The id that the caller gave, "" for none."""
        return self._request.id

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

    def time_remaining(self) -> float | None:
        """Seconds until the deadline (negative once past it); None without a deadline."""
        deadline = self._request.deadline_ns
        return None if deadline is None else (deadline - time.monotonic_ns()) / 1e9

    def __repr__(self) -> str:
        return f"RequestContext(id={self.id!r}, cancelled={self.cancelled})"
