"""How the process of a model executes what it is sent, by the kind of executable that it has."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

from penstock_runtime.backends.base import (
    Executable,
    ModelSource,
    RequestExecutable,
    StreamingExecutable,
)
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import Cancelled, PenstockError
from penstock_runtime.isolation.child_link import ChildLink
from penstock_runtime.isolation.child_task import RemoteTask
from penstock_runtime.isolation.frames import Frame, Kind
from penstock_runtime.isolation.traces import marks_note, remote_trace
from penstock_runtime.isolation.values import error_note, request_of
from penstock_runtime.isolation.window import Window
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream


class RemoteContext(RequestContext):
    """A request whose caller is known to another process."""

    __slots__ = ("_iterative", "_rows", "rescheduled")

    def __init__(
        self, request: InferRequest, stream: ResponseStream, rows: int, iterative: bool = False
    ) -> None:
        super().__init__(request, stream)
        self._rows = rows
        self._iterative = iterative
        self.rescheduled = False

    def reschedule(self) -> None:
        """Ask for a further step of this request."""
        if not self._iterative:
            super().reschedule()
        self.rescheduled = True

    @property
    def batch_size(self) -> int:
        """How many rows of a merged batch are this request's."""
        return self._rows


class Worker(Protocol):
    """Executes what the server sends."""

    def execute(self, frame: Frame) -> None:
        """Execute, and answer."""


class _Worker:
    def __init__(self, link: ChildLink, source: ModelSource) -> None:
        self._link = link
        self._name = source.config.name
        self._version = str(source.version)
        rules = source.config.sequence_batching
        self._iterative = rules is not None and rules.iterative_sequence

    def contexts(self, frame: Frame) -> list[RemoteContext]:
        """The requests of a message."""
        made = []
        for note in frame.note["requests"]:
            trace = remote_trace(note, 0, self._name)
            request = request_of(note)._replace(
                model_name=self._name, model_version=self._version, trace=trace
            )
            made.append(RemoteContext(request, ResponseStream(), note["rows"], self._iterative))
        return made

    def known(self, error: BaseException) -> PenstockError:
        """An error that may be told."""
        if isinstance(error, PenstockError):
            return error
        return execution_failure(error, self._name)


class Batches(_Worker):
    """Executes a batch with one call."""

    def __init__(self, link: ChildLink, source: ModelSource, executable: Executable) -> None:
        super().__init__(link, source)
        self._executable = executable

    def execute(self, frame: Frame) -> None:
        """Execute a batch, and send its outputs or its error."""
        link, number = self._link, frame.number
        try:
            contexts = self.contexts(frame)
            link.listen("work", number, lambda said: _cancel(contexts, said))
            outputs: Mapping[str, Any] = self._executable.execute(
                self._link.memory.arrays(frame), contexts
            )
            marks = marks_note(context.trace for context in contexts)
            link.send(Kind.RESULT, number, {**_said(contexts), **marks}, outputs)
        except (Exception, SystemExit) as error:
            link.send(Kind.ERROR, number, {"error": error_note(self.known(error))})
        finally:
            link.forget("work", number)


def _said(contexts: Sequence[RemoteContext]) -> dict[str, Any]:
    """What the model has set of the responses' parameters, and who is to have a further step."""
    note: dict[str, Any] = {}
    if any(context.said for context in contexts):
        note["parameters"] = [dict(context.said) for context in contexts]
    again = [place for place, context in enumerate(contexts) if context.rescheduled]
    if again:
        note["again"] = again
    return note


def _cancel(contexts: Sequence[RemoteContext], said: Frame) -> None:
    if said.kind is Kind.CANCEL:
        contexts[said.note["place"]]._stream.cancel()


class Streams(_Worker):
    """Executes one request with any number of responses."""

    def __init__(
        self, link: ChildLink, source: ModelSource, executable: StreamingExecutable
    ) -> None:
        super().__init__(link, source)
        self._executable = executable

    def execute(self, frame: Frame) -> None:
        """Send the responses as they come, and then the end or an error."""
        link, number = self._link, frame.number
        window = Window(frame.note["window"])
        contexts: list[RemoteContext] = []

        def heard(said: Frame) -> None:
            if said.kind is Kind.CREDIT:
                window.add(said.note["count"])
            else:
                _cancel(contexts, said)
                window.end()

        try:
            contexts += self.contexts(frame)
            link.listen("work", number, heard)
            self._forward(number, self._link.memory.arrays(frame), contexts[0], window)
            marks = marks_note(context.trace for context in contexts)
            link.send(Kind.END, number, {**_said(contexts), **marks})
        except (Exception, SystemExit) as error:
            link.send(Kind.ERROR, number, {"error": error_note(self.known(error))})
        finally:
            link.forget("work", number)

    def _forward(
        self, number: int, inputs: Mapping[str, Any], context: RemoteContext, window: Window
    ) -> None:
        responses: Any = self._executable.stream(inputs, context)
        with closing(responses) if hasattr(responses, "close") else _Nothing():
            for outputs in responses:
                if not window.take():
                    raise Cancelled("the request was cancelled", scheduled=True)
                again, context.rescheduled = context.rescheduled, False
                self._link.send(Kind.RESPONSE, number, _said((context,)), outputs)
                context.spoken, context.rescheduled = None, again


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Requests(_Worker):
    """Hands requests to a model that answers each by itself."""

    def __init__(self, link: ChildLink, source: ModelSource, executable: RequestExecutable) -> None:
        super().__init__(link, source)
        self._executable = executable
        self._decoupled = source.config.decoupled

    def execute(self, frame: Frame) -> None:
        """Call the model, and say that it has returned, or what it raised."""
        tasks: list[RemoteTask] = []
        try:
            tasks += self._tasks(frame)
            self._executable.execute_requests(tasks)
        except (Exception, SystemExit) as error:
            known = self.known(error)
            self._link.send(Kind.ERROR, frame.number, {"error": error_note(known)})
            for task in tasks:
                task.drop()
        else:
            again = [place for place, task in enumerate(tasks) if task.rescheduled]
            for place in again:
                tasks[place].drop()
            self._link.send(Kind.RESULT, frame.number, {"again": again} if again else {})

    def _tasks(self, frame: Frame) -> list[RemoteTask]:
        parts: list[dict[str, Any]] = [{} for _ in frame.note["requests"]]
        for key, array in self._link.memory.arrays(frame).items():
            place, _, name = key.partition(":")
            parts[int(place)][name] = array
        return [
            RemoteTask(
                self._link,
                note["task"],
                request_of(note)._replace(
                    model_name=self._name,
                    model_version=self._version,
                    trace=remote_trace(note, note["task"], self._name),
                ),
                arrays,
                decoupled=self._decoupled,
                iterative=self._iterative,
            )
            for note, arrays in zip(frame.note["requests"], parts, strict=True)
        ]
