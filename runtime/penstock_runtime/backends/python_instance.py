"""One instance of a Python model: named arrays in, a call of its code, named arrays out."""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from penstock_runtime.backends.arrays import as_array
from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import Arrays, Straight
from penstock_runtime.backends.completion import kept_outputs
from penstock_runtime.backends.failure import execution_failure, log_close_failure
from penstock_runtime.backends.outputs import OutputPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import PenstockError, Unavailable
from penstock_runtime.signature import Signature
from penstock_runtime.signature_annotations import ContextUse

Call = Callable[..., Any]
Hook = Callable[[], None]


class CallPlan:
    """How requests of one model become calls of its code; made once per load."""

    def __init__(self, config: ModelConfig, signature: Signature) -> None:
        self.model = config.name
        self.kind = signature.kind
        self._has_rows = config.has_rows
        self._parameters = {field.name: field.key for field in signature.inputs}
        self._same_names = all(name == key for name, key in self._parameters.items())
        self._context = signature.context_parameter
        self._many = signature.context_use is ContextUse.MANY
        self._outputs = OutputPlan(
            config.name,
            (*config.output, *kept_outputs(config)),
            signature.outputs,
            signature.form,
            as_array,
            batched=config.max_batch_size > 0,
        )

    @property
    def straight(self) -> bool:
        """Whether a call takes the inputs by their names, and gives the outputs, just like that."""
        alone = not self._context and not self.kind.is_async
        return alone and self._same_names and bool(self.only[0])

    def arguments(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The keyword arguments of one call."""
        if self._same_names and not self._context:
            return inputs
        known = self._parameters
        arguments = {known.get(name, name): array for name, array in inputs.items()}
        if self._context:
            arguments[self._context] = list(contexts) if self._many else contexts[0]
        return arguments

    @property
    def only(self) -> tuple[str, Any]:
        """Name and dtype of the one output that there is; see `OutputPlan`."""
        return self._outputs.only

    def rows(self, inputs: Arrays) -> int | None:
        """The rows of a batch; None where they do not show in every input and output."""
        if not self._has_rows:
            return None
        return next((int(array.shape[0]) for array in inputs.values()), None)

    def results(
        self, returned: Any, rows: int | None, contexts: Sequence[RequestContext]
    ) -> dict[str, Any]:
        """The outputs that a call returned."""
        return self._outputs.arrays(returned, rows, contexts)


class _Instance:
    """What both kinds of instances are made of, and how they end."""

    def __init__(
        self, plan: CallPlan, call: Call, runner: AsyncRunner | None, unload: Hook
    ) -> None:
        self._plan = plan
        self._call = call
        self._runner = runner if plan.kind.is_async else None
        self._unload = unload

    def close(self) -> None:
        """Call the model's unload hook and let go of the model."""
        ending, self._unload, self._call = self._unload, _nothing, _closed
        ending()


class PythonExecutable(_Instance, Straight):
    """An instance that answers a batch with one call."""

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises the model's failure as a PenstockError."""
        try:
            returned = self._answer(self._plan.arguments(inputs, contexts), contexts)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise self.failure(error) from error
        return self.outputs(returned, inputs, contexts)

    @property
    def straight(self) -> Call | None:
        """The model's function, where arrays by name are all that it takes; see `base.Straight`."""
        return self._call if self._plan.straight else None

    def outputs(self, returned: Any, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """What a call of `straight` returned as `execute` gives it. Raises as `execute` does."""
        try:
            return self._plan.results(returned, self._plan.rows(inputs), contexts)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> PenstockError:
        """What a call of `straight` raised, as `execute` raises it."""
        if isinstance(error, PenstockError):
            return error
        return execution_failure(error, self._plan.model)

    def _answer(self, arguments: Arrays, contexts: Sequence[RequestContext]) -> Any:
        returned = self._call(**arguments)
        if self._runner is None:
            return returned
        return self._runner.run(returned, lambda: all(context.cancelled for context in contexts))


class PythonStreamingExecutable(_Instance):
    """An instance that answers one request with any number of responses."""

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        """The responses of one request; the model's generator is closed with this one."""
        name, _ = self._plan.only
        with contextlib.closing(self.arrays(inputs, context)) as responses:
            for response in responses:
                yield {name: response} if type(response) is np.ndarray else response

    def arrays(self, inputs: Arrays, context: RequestContext) -> Generator[Any, None, None]:
        """As `stream`, but an array that is the one output there is comes as it is."""
        plan, contexts = self._plan, [context]
        (_, dtype), ndarray = plan.only, np.ndarray
        try:
            with contextlib.closing(self._responses(inputs, context)) as responses:
                for response in responses:
                    # The ordinary case, which `results` would see as well, but not as quickly.
                    if type(response) is ndarray and response.dtype is dtype and response.ndim:
                        yield response
                    else:
                        yield plan.results(response, None, contexts)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise execution_failure(error, plan.model) from error

    def _responses(self, inputs: Arrays, context: RequestContext) -> "_Closable":
        produced = self._call(**self._plan.arguments(inputs, [context]))
        if self._runner is not None:
            produced = self._runner.iterate(produced, lambda: context.cancelled)
        return _Closable(produced, self._plan.model)


def _nothing() -> None:
    """The unload hook of an instance that has been closed."""


def _closed(**_arguments: Any) -> Any:
    raise Unavailable("the instance has been closed")


class _Closable:
    """Any iterator with a `close` that never raises: the answer does not depend on it."""

    def __init__(self, produced: Any, model: str) -> None:
        self._produced = produced
        self._model = model

    def __iter__(self) -> Iterator[Any]:
        return iter(self._produced)

    def close(self) -> None:
        close = getattr(self._produced, "close", None)
        if close is None:
            return
        try:
            close()
        except (Exception, SystemExit) as error:
            log_close_failure(error, self._model, "the end of a stream")
