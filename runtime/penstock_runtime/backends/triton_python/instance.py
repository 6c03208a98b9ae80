"""One instance of a Triton model: hands requests to its `execute`, and its answers to them."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import RequestExecutable, RequestTask
from penstock_runtime.backends.failure import execution_failure, log_close_failure
from penstock_runtime.backends.triton_python.handover import Handover
from penstock_runtime.backends.triton_python.readiness import Readiness
from penstock_runtime.backends.triton_python.request import InferenceRequest
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.scope import Host, Scope, entered
from penstock_runtime.backends.triton_python.sender import close_sender
from penstock_runtime.errors import FailureReason, Internal, PenstockError
from penstock_runtime.stream import hold_news, release_news

_log = logging.getLogger("penstock.model")


class TritonExecutable(RequestExecutable):
    """Calls one object of the model's class; `runner` is there if its `execute` is a coroutine;
    `left` is told that the instance is gone."""

    def __init__(
        self,
        made: Any,
        host: Host,
        handover: Handover,
        runner: AsyncRunner | None,
        left: Callable[[Host], None],
    ) -> None:
        self._made = made
        self._host = host
        self._handover = handover
        self._runner = runner
        self._left = left
        self._detached = runner is not None and handover.decoupled
        asks = getattr(made, "is_ready", None)
        self._readiness = Readiness(host.model, asks) if asks is not None else None

    @property
    def ready(self) -> bool:
        """Whether the model says that it can serve."""
        return self._readiness is None or self._readiness.ready

    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        """Call the model. Raises its failure as a PenstockError."""
        requests = [self._handover.request(task) for task in tasks]
        scope = Scope(self._host, tasks, blocks=not self._detached)
        try:
            with entered(scope):
                returned = self._call(tasks, requests)
        except PenstockError:
            _close_all(requests)
            raise
        except (Exception, SystemExit) as error:
            _close_all(requests)
            raise self._failure(error) from error
        if self._detached:
            return
        if self._handover.decoupled:
            self._check_nothing(returned, requests)
        else:
            self._answer(tasks, requests, returned)

    def close(self) -> None:
        """Let go of the model."""
        self._made = None
        self._left(self._host)

    def finalize(self) -> None:
        """Call the model's `finalize`; what it raises is logged."""
        if self._readiness is not None:
            self._readiness.stop()
        finalize = getattr(self._made, "finalize", None)
        if finalize is None:
            return
        try:
            with entered(Scope(self._host, blocks=True)):
                finalize()
        except (Exception, SystemExit) as error:
            log_close_failure(error, self._host.model, "finalize")

    # -- the call ----------------------------------------------------------------------------------

    def _call(self, tasks: Sequence[RequestTask], requests: list[InferenceRequest]) -> Any:
        returned = self._made.execute(requests)
        if self._runner is None:
            return returned
        if not self._detached:
            return self._runner.run(returned, lambda: all(task.abandoned for task in tasks))
        self._runner.spawn(returned, partial(self._ended, tuple(tasks), requests))
        return None

    def _ended(
        self,
        tasks: Sequence[RequestTask],
        requests: Sequence[InferenceRequest],
        returned: Any,
        error: BaseException | None,
    ) -> None:
        """A coroutine has ended that nobody waited for."""
        if error is None and returned is not None:
            error = self._not_nothing()
        if error is None:
            return
        _close_all(requests)
        known = error
        if not isinstance(known, PenstockError):
            known = self._failure(error)
        for task in tasks:
            task.fail(known)

    def _failure(self, error: BaseException) -> Internal:
        if isinstance(error, ValueError) and "read-only" in str(error):
            _log.error(
                "model '%s' writes into its inputs, which are the message that came: copy what is"
                " written to, or set the parameter WRITABLE_INPUTS of the configuration to yes",
                self._host.model,
            )
        return execution_failure(error, self._host.model)

    # -- its answers -------------------------------------------------------------------------------

    def _answer(
        self, tasks: Sequence[RequestTask], requests: Sequence[InferenceRequest], returned: Any
    ) -> None:
        try:
            self._check(requests, returned)
        except PenstockError:
            _close_all(requests)
            raise
        hold_news()
        try:
            for task, request, response in zip(tasks, requests, returned, strict=True):
                if response is None:
                    continue
                if close_sender(request.get_response_sender()):
                    _log.warning(
                        "model '%s' returned a response to a request that its sender had answered:"
                        " left out",
                        self._host.model,
                    )
                    continue
                self._handover.deliver(task, response, True, 0.0)
        finally:
            release_news()

    def _check(self, requests: Sequence[InferenceRequest], returned: Any) -> None:
        if not isinstance(returned, list | tuple):
            raise self._broken(
                f"execute of model '{self._host.model}' returned a {type(returned).__name__},"
                f" expected a list of {len(requests)} InferenceResponse"
            )
        if len(returned) != len(requests):
            raise self._broken(
                f"execute of model '{self._host.model}' returned {len(returned)} responses to"
                f" {len(requests)} requests"
            )
        for response in returned:
            if response is not None and not isinstance(response, InferenceResponse):
                raise self._broken(
                    f"execute of model '{self._host.model}' returned a list with a"
                    f" {type(response).__name__}, expected InferenceResponse or None"
                )

    def _check_nothing(self, returned: Any, requests: Sequence[InferenceRequest]) -> None:
        if returned is not None:
            _close_all(requests)
            raise self._not_nothing()

    def _not_nothing(self) -> Internal:
        return self._broken(
            f"model '{self._host.model}' is using the decoupled mode and the execute function must"
            " return None"
        )

    def _broken(self, text: str) -> Internal:
        return Internal(text, reason="MODEL_FAILED", failure=FailureReason.BACKEND, scheduled=True)


def _close_all(requests: Sequence[InferenceRequest]) -> None:
    """The requests fail together: nothing that comes for one of them later is told."""
    for request in requests:
        close_sender(request.get_response_sender())
