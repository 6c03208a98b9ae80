"""One instance of a model of MLServer: arrays in, a call of predict or predict_stream, arrays out.

All instances share the model's one object and its event loop, as requests do in MLServer.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any

import numpy as np

from penstock_runtime.backends.async_runner import AsyncRunner
from penstock_runtime.backends.base import Arrays
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.mlserver.messages import MessagePlan, likeness_of, said
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import AnyArray
from penstock_runtime.errors import PenstockError, Unavailable


class Hosted:
    """The model's object with what is around it: its settings' context and its loop."""

    def __init__(self, model: Any, runner: AsyncRunner, entered: Any) -> None:
        self.model = model
        self.runner = runner
        # Makes the context manager in which mlserver's own metrics know the model's name.
        self._entered = entered

    async def predict(self, request: Any) -> Any:
        """The response to one message."""
        with self._entered():
            return await self.model.predict(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """The responses to one message."""
        with self._entered():
            async for response in self.model.predict_stream(_alone(request)):
                yield response


async def _alone(request: Any) -> AsyncIterator[Any]:
    yield request


class _Instance:
    def __init__(self, plan: MessagePlan, hosted: Hosted, *, batched: bool) -> None:
        self._plan = plan
        self._hosted: Hosted | None = hosted
        self._batched = batched

    @property
    def _open(self) -> Hosted:
        if self._hosted is None:
            raise Unavailable("the instance has been closed")
        return self._hosted

    def close(self) -> None:
        """Let go of the model."""
        self._hosted = None


class MLServerExecutable(_Instance):
    """An instance that answers a batch; requests that differ in what they ask for are executed
    apart.
    """

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises the model's failure as a PenstockError."""
        try:
            if len(contexts) == 1 or not self._batched:
                return self._answer(inputs, contexts)
            return self._parts(inputs, contexts)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise execution_failure(error, self._plan.model) from error

    def _parts(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        answers, sizes, at = [], [], 0
        for _, group in groupby(contexts, likeness_of):
            alike = list(group)
            rows = sum(context.batch_size for context in alike)
            part = {name: array[at : at + rows] for name, array in inputs.items()}
            answers.append(self._answer(part, alike))
            sizes.append(rows)
            at += rows
        return answers[0] if len(answers) == 1 else _joined(answers, sizes)

    def _answer(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Mapping[str, AnyArray]:
        hosted, plan = self._open, self._plan
        request = plan.request(inputs, contexts)
        response = hosted.runner.run(
            hosted.predict(request), lambda: all(context.cancelled for context in contexts)
        )
        if parameters := said(response):
            for context in contexts:
                context.response_parameters = dict(parameters)
        return plan.arrays(response)


class MLServerStreamingExecutable(_Instance):
    """An instance that answers one request with any number of responses."""

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        """The responses of one request, as they come; the model's generator ends with this one."""
        hosted, plan = self._open, self._plan
        responses = hosted.stream(plan.request(inputs, [context]))
        try:
            with closing(hosted.runner.iterate(responses, lambda: context.cancelled)) as found:
                for response in found:
                    context.response_parameters = dict(said(response))
                    yield plan.arrays(response)
        except PenstockError:
            raise
        except (Exception, SystemExit) as error:
            raise execution_failure(error, plan.model) from error


def _joined(
    answers: Sequence[Mapping[str, AnyArray]], sizes: Sequence[int]
) -> Mapping[str, AnyArray]:
    """The answers of all parts, one after the other.

    A part whose requests did not ask for an output has rows in it that nobody will see.
    """
    names = dict.fromkeys(name for answer in answers for name in answer)
    joined = {}
    for name in names:
        like = next(answer[name] for answer in answers if name in answer)
        parts = [
            answer[name] if name in answer else np.zeros((rows, *like.shape[1:]), like.dtype)
            for answer, rows in zip(answers, sizes, strict=True)
        ]
        joined[name] = np.concatenate(parts)
    return joined
