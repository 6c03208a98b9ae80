"""One instance of a Triton model: hands requests to its `execute`, and its answers to them."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import Arrays, RequestExecutable, RequestTask
from penstock_runtime.backends.failure import execution_failure, log_close_failure
from penstock_runtime.backends.triton_python.failures import TritonError
from penstock_runtime.backends.triton_python.handover import Handover
from penstock_runtime.backends.triton_python.lending import refused_write, says_refused
from penstock_runtime.backends.triton_python.readiness import Readiness
from penstock_runtime.backends.triton_python.request import InferenceRequest
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.backends.triton_python.scope import Host, Scope, entered
from penstock_runtime.backends.triton_python.sender import close_sender
from penstock_runtime.backends.triton_python.tensor import exported
from penstock_runtime.errors import FailureReason, Internal, PenstockError
from penstock_runtime.loop_inbox import hold_news, release_news

_log = logging.getLogger("penstock.model")


class TritonExecutable(RequestExecutable):
    """Calls one object of the model's class; `runner` is there if its `execute` is a coroutine;
    `left` is told that the instance is gone.

    A model that fails because it writes into its inputs, which are read-only, is called once more
    with copies before anything of it is answered: what failed, as one and the same execution. From
    then on all instances of its load get copies; see `lending`.
    """

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
        self._lending = handover.lending
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
        arrays = [task.arrays for task in tasks]
        failed = self._attempt(tasks, arrays, self._lending.learning)
        if failed:
            self._repeat(tasks, arrays, failed)

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

    # -- once, and maybe once more -----------------------------------------------------------------

    def _attempt(
        self, tasks: Sequence[RequestTask], arrays: Sequence[Arrays], learning: bool
    ) -> Sequence[int]:
        """Call the model with these inputs; which of the requests are to be executed once more,
        with copies that it may write to. There are none unless the model is `learning`.
        """
        request = self._handover.request
        requests = [request(task, given) for task, given in zip(tasks, arrays, strict=True)]
        try:
            with entered(Scope(self._host, tasks, blocks=not self._detached)):
                returned = self._call(tasks, requests, arrays, learning)
        except PenstockError:
            _close_all(requests)
            raise
        except (Exception, SystemExit) as error:
            if self._begins_anew(requests, error, learning):
                return range(len(tasks))
            raise self._failure(error) from error
        if self._detached:
            return ()
        if self._handover.decoupled:
            self._check_nothing(returned, requests)
            return ()
        return self._answer(tasks, requests, returned, learning)

    def _begins_anew(
        self, requests: Sequence[InferenceRequest], error: BaseException, learning: bool
    ) -> bool:
        """End a call that raised; whether it did for what copies are there for, and can be made
        again: nothing was answered, and the inputs are still what came.
        """
        pristine = not _exported(requests)
        answered = _close_all(requests)
        refused = learning and self._lending.learn(refused_write(error))
        return refused and pristine and not answered

    def _repeat(
        self, tasks: Sequence[RequestTask], arrays: Sequence[Arrays], failed: Sequence[int]
    ) -> None:
        """Execute these once more, with copies; but not for callers that have given up."""
        again = [index for index in failed if not tasks[index].abandoned]
        for index in again:
            tasks[index].reschedule(False)
        if again:
            self._attempt([tasks[i] for i in again], [arrays[i] for i in again], False)

    # -- the call ----------------------------------------------------------------------------------

    def _call(
        self,
        tasks: Sequence[RequestTask],
        requests: list[InferenceRequest],
        arrays: Sequence[Arrays],
        learning: bool,
    ) -> Any:
        returned = self._made.execute(requests)
        if self._runner is None:
            return returned
        if not self._detached:
            return self._runner.run(returned, lambda: all(task.abandoned for task in tasks))
        kept = arrays if learning else ()
        self._runner.spawn(returned, partial(self._ended, tuple(tasks), requests, kept))
        return None

    def _ended(
        self,
        tasks: Sequence[RequestTask],
        requests: Sequence[InferenceRequest],
        arrays: Sequence[Arrays],
        returned: Any,
        error: BaseException | None,
    ) -> None:
        """A coroutine has ended that nobody waited for; with `arrays` it may be repeated."""
        if error is None and returned is not None:
            error = self._not_nothing()
        if error is None:
            return
        if self._begins_anew(requests, error, bool(arrays)):
            try:
                self._repeat(tasks, arrays, range(len(tasks)))
                return
            except PenstockError as failure:
                error = failure
        known = error
        if not isinstance(known, PenstockError):
            known = self._failure(error)
        for task in tasks:
            task.fail(known)

    def _failure(self, error: BaseException) -> PenstockError:
        if not self._lending.copies and refused_write(error):
            _log.error(
                "model '%s' writes into its inputs, which are the message that came: copy what is"
                " written to, or set the parameter WRITABLE_INPUTS of the configuration to yes",
                self._host.model,
            )
        return execution_failure(error, self._host.model)

    # -- its answers -------------------------------------------------------------------------------

    def _answer(
        self,
        tasks: Sequence[RequestTask],
        requests: Sequence[InferenceRequest],
        returned: Any,
        learning: bool,
    ) -> Sequence[int]:
        """Answer the requests; which of them are to be executed once more instead."""
        try:
            self._check(requests, returned)
        except PenstockError:
            _close_all(requests)
            raise
        failed: list[int] = []
        hold_news()
        try:
            for index, (task, response) in enumerate(zip(tasks, returned, strict=True)):
                if response is None:
                    continue
                request = requests[index]
                if close_sender(request.get_response_sender()):
                    _log.warning(
                        "model '%s' returned a response to a request that its sender had answered:"
                        " left out",
                        self._host.model,
                    )
                    continue
                error = response.error()
                if error is not None and learning and self._may_learn(request, error):
                    failed.append(index)
                    continue
                self._handover.deliver(task, response, True, 0.0)
        finally:
            release_news()
        return failed

    def _may_learn(self, request: InferenceRequest, error: TritonError) -> bool:
        """Whether a request failed for a write that copies allow; as when `execute` raises it."""
        return self._lending.learn(says_refused(error.message())) and not _exported((request,))

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


def _close_all(requests: Sequence[InferenceRequest]) -> bool:
    """The requests fail together: nothing that comes for one of them later is told. Whether
    something had been.
    """
    used = [close_sender(request.get_response_sender()) for request in requests]
    return any(used)


def _exported(requests: Sequence[InferenceRequest]) -> bool:
    """Whether the model may have changed what came, by way of DLPack."""
    return any(exported(tensor) for request in requests for tensor in request.inputs())
