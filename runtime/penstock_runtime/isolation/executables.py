"""What the server executes when a model is in a process of its own: each kind of executable, which
hands over what it is given and gives what comes back.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from penstock_runtime.backends.base import Arrays, RequestExecutable, RequestTask, Supervised
from penstock_runtime.context import RequestContext
from penstock_runtime.errors import InstanceDied, PenstockError
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.question import Question
from penstock_runtime.isolation.settings import Settings
from penstock_runtime.isolation.supervised import Keeper
from penstock_runtime.isolation.traces import note_marks, trace_note
from penstock_runtime.isolation.values import count_of, list_of, parameters_of, request_note

# How many responses of a stream the process may send ahead, and after how many it is told to go on.
WINDOW, EVERY = 16, 8


def context_note(context: RequestContext) -> dict[str, Any]:
    """A request as the model may know it; what says nothing is left out."""
    known = {
        "id": context.id,
        "parameters": dict(context.parameters),
        "headers": dict(context.headers),
        "deadline": context.deadline_ns,
        "outputs": context.requested_outputs,
        "correlation": context.sequence_id,
        "start": context.sequence_start,
        "end": context.sequence_end,
    }
    said = {key: value for key, value in known.items() if value}
    return {"model": "", "rows": context.batch_size, **said, **trace_note(context.trace)}


def given_up(contexts: Sequence[RequestContext]) -> bool:
    """Whether nobody waits for any of these, or not any longer."""
    now = time.monotonic_ns()
    return all(c.cancelled or (c.deadline_ns or now + 1) <= now for c in contexts)


class Watch:
    """Looks after an execution while it lasts: tells the process who gave up, and ends it when it
    takes longer than it may.
    """

    def __init__(
        self, life: Life, number: int, contexts: Sequence[RequestContext], settings: Settings
    ) -> None:
        self._life = life
        self._number = number
        self._contexts = contexts
        self._limit_s = settings.execution_s
        self._begun = time.monotonic()
        self._told: set[int] = set()

    def __call__(self) -> None:
        """Look."""
        for place, context in enumerate(self._contexts):
            if context.cancelled and place not in self._told:
                self._told.add(place)
                self._life.send(Kind.CANCEL, self._number, {"place": place})
        if self._limit_s and time.monotonic() - self._begun > self._limit_s:
            self._life.accuse(f"took longer than {self._limit_s:g} s for an execution")


class _Kept(Supervised):
    """What all kinds have in common: a process, and who keeps it."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    @property
    def ready(self) -> bool:
        """Whether the process is there, and its model says that it can serve."""
        return self.keeper.ready

    @property
    def pid(self) -> int | None:
        """The process; None while there is none."""
        return self.keeper.pid

    @property
    def restarts(self) -> int:
        """How often there was another one."""
        return self.keeper.restarts

    def supervise(
        self, give_up: Callable[[], bool], on_death: Callable[[], None], warm: Callable[[], None]
    ) -> None:
        """See `Supervised`."""
        self.keeper.supervise(give_up, on_death, warm)

    def revive(self) -> bool:
        """See to it that there is a process."""
        return self.keeper.revive()

    def close(self) -> None:
        """End the process."""
        self.keeper.close()


class IsolatedExecutable(_Kept):
    """Answers a batch."""

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises the model's failure, or InstanceDied."""
        life, _ = self.keeper.living(partial(given_up, contexts))
        with life.question() as question:
            watch = Watch(life, question.number, contexts, self.keeper.settings)
            question.ask(Kind.EXECUTE, {"requests": list(map(context_note, contexts))}, inputs)
            frame = question.answer(watch)
            outputs = question.arrays(frame)
            hear(life, frame, contexts)
        return outputs


class IsolatedStream(_Kept):
    """Answers one request with any number of responses."""

    def stream(self, inputs: Arrays, context: RequestContext) -> Iterator[Arrays]:
        """The responses as they come; closed early, the model's own stream is closed as well."""
        contexts = (context,)
        life, _ = self.keeper.living(partial(given_up, contexts))
        with life.question() as question:
            watch = Watch(life, question.number, contexts, self.keeper.settings)
            note = {"requests": [context_note(context)], "window": WINDOW}
            question.ask(Kind.STREAM, note, inputs)
            ended = False
            try:
                taken = 0
                while (frame := question.answer(watch)).kind is Kind.RESPONSE:
                    outputs = question.arrays(frame)
                    hear(life, frame, contexts)
                    yield outputs
                    taken += 1
                    if taken % EVERY == 0:
                        life.send(Kind.CREDIT, question.number, {"count": EVERY})
                ended = True
                hear(life, frame, contexts)
            except PenstockError:
                ended = True
                raise
            finally:
                if not ended:
                    _give_up(life, question, watch)


def _give_up(life: Life, question: Question, watch: Callable[[], None]) -> None:
    """Nobody wants further responses: return when the model has ended its stream."""
    with suppress(PenstockError):
        life.send(Kind.CANCEL, question.number, {"place": 0})
        while (frame := question.answer(watch)).kind is Kind.RESPONSE:
            question.arrays(frame)


class IsolatedRequests(_Kept, RequestExecutable):
    """Hands requests over, which are answered by what the process says to them."""

    def execute_requests(self, tasks: Sequence[RequestTask]) -> None:
        """Hand these over; returns when the model's `execute` does. Raises its failure."""
        life, open_tasks = self.keeper.living(lambda: all(task.abandoned for task in tasks))
        numbers = [open_tasks.add(task) for task in tasks]
        notes = [
            {**request_note(task.request), "task": number, **trace_note(task.request.trace)}
            for task, number in zip(tasks, numbers, strict=True)
        ]
        arrays: Mapping[str, Any] = {
            f"{place}:{name}": array
            for place, task in enumerate(tasks)
            for name, array in task.arrays.items()
        }
        try:
            with life.question() as question:
                watch = Watch(life, question.number, (), self.keeper.settings)
                question.ask(Kind.REQUESTS, {"requests": notes}, arrays)
                frame = question.answer(watch)
                again = places_of(life, frame, len(tasks))
        except InstanceDied:
            raise
        except PenstockError:
            # The model failed as a whole: nothing that comes for one of them later counts.
            for number in numbers:
                open_tasks.forget(number)
            raise
        for place in again:
            # Its next step is another task.
            open_tasks.forget(numbers[place])
            tasks[place].reschedule()

    def finalize(self) -> None:
        """Let the model end what it has begun."""
        self.keeper.finalize()


def places_of(life: Life, frame: Frame, most: int) -> Sequence[int]:
    """The requests, by their places, that a message asks a further step for."""
    try:
        found = [count_of(place) for place in list_of(frame.note.get("again", []), most)]
        if any(place >= most for place in found):
            raise BrokenProtocol("a further step is asked for a request that there is not")
    except BrokenProtocol as broken:
        life.accuse(f"broke the protocol ({broken.message})")
        raise life.death() from None
    return found


def hear(life: Life, frame: Frame, contexts: Sequence[RequestContext]) -> None:
    """The parameters of responses that the model has set, by request, who wants a further step,
    and what was noted of those that are traced.
    """
    for place in places_of(life, frame, len(contexts)):
        contexts[place].reschedule()
    told = frame.note.get("parameters", [])
    try:
        for context in contexts:
            note_marks(context.trace, frame.note)
        for context, parameters in zip(contexts, list_of(told, len(contexts)), strict=False):
            if parameters:
                context.response_parameters = parameters_of(parameters)
    except BrokenProtocol as broken:
        life.accuse(f"broke the protocol ({broken.message})")
        raise life.death() from None
