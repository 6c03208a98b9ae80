"""One instance of a TorchServe model: a handler of its own, called with a list of requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from penstock_runtime.backends.base import Arrays
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.torchserve.handler import Handler
from penstock_runtime.backends.torchserve.rows import RowPlan
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import (
    FailureReason,
    Internal,
    InvalidArgument,
    PenstockError,
    Unavailable,
)

# Statuses of HTTP from which on a response is a failure, and one that is not the caller's.
_FAILURE = 400
_FAULT_OF_OURS = 500


class TorchServeExecutable:
    """An instance; only its own thread calls the handler."""

    def __init__(self, plan: RowPlan, handler: Handler, context: Any, processor: Any) -> None:
        self._plan = plan
        self._handler: Handler | None = handler
        self._context = context
        self._processor = processor

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises the handler's failure as a PenstockError."""
        try:
            return self._execute(inputs, contexts)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Let go of the handler."""
        self._handler = None

    def _execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        handler = self._handler
        if handler is None:
            raise Unavailable("the instance has been closed")
        count = self._plan.count(inputs)
        owners = self._owners(contexts, count)
        data = self._plan.data(inputs, [owner.parameters for owner in owners])
        processors = [self._processor(_headers(owner)) for owner in owners]
        self._context.request_ids = {at: owner.id for at, owner in enumerate(owners)}
        self._context.request_processor = processors
        returned = handler.handle(data, self._context)
        for owner, processor in zip(owners, processors, strict=True):
            self._check_status(processor)
            if headers := processor.get_response_headers():
                owner.response_parameters = {str(k): str(v) for k, v in headers.items()}
        return self._plan.arrays(returned, count)

    def _owners(self, contexts: Sequence[RequestContext], count: int) -> list[RequestContext]:
        """The request that each row belongs to."""
        if len(contexts) == 1:
            return [contexts[0]] * count
        return [context for context in contexts for _ in range(context.batch_size)]

    def _check_status(self, processor: Any) -> None:
        """A status of failure is the request's; of several requests each is then tried alone."""
        code = int(processor.get_response_status_code())
        if code >= _FAILURE:
            raise self._told(code, str(processor.get_response_status_phrase() or ""))

    def _failure(self, error: BaseException) -> PenstockError:
        code = getattr(error, "error_code", None)
        if isinstance(code, int) and type(error).__name__ == "PredictionException":
            return self._told(code, str(getattr(error, "message", error)))
        return execution_failure(error, self._plan.model)

    def _told(self, code: int, phrase: str) -> PenstockError:
        kind = InvalidArgument if code < _FAULT_OF_OURS else Internal
        text = " ".join(phrase.split())[:200]
        return kind(
            f"the handler of model '{self._plan.model}' answers {code}{': ' if text else ''}{text}",
            reason="MODEL_FAILED",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )


def _headers(context: RequestContext) -> Mapping[str, str]:
    """Headers, and the request's parameters, which TorchServe has no other place for."""
    return {**context.headers, **{key: str(value) for key, value in context.parameters.items()}}
