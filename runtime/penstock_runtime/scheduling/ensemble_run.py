"""One request to an ensemble under way. Whatever thread brings news of a step works on with it, and
does not wait: one thread at a time works for a request, and whoever comes meanwhile leaves the news
to it. So nothing here is done under a lock, and no step goes on inside another one's call.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.errors import FailureReason, Internal, PenstockError, ResourceExhausted
from penstock_runtime.observability.response_table import Outcome, outcome_of
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.endings import given_up
from penstock_runtime.scheduling.ensemble_frame import Answer, Moves, Start
from penstock_runtime.scheduling.ensemble_graph import Plan, Step
from penstock_runtime.scheduling.ensemble_progress import Progress
from penstock_runtime.scheduling.ensemble_step import (
    STALLED_S,
    StepStream,
    handed_over,
    step_error,
    step_request,
)
from penstock_runtime.stream import UNSENT_LIMIT
from penstock_runtime.tensor import Tensor

_log = logging.getLogger("penstock.model")


class Home(Protocol):
    """The ensemble, as its requests see it."""

    def call(self, step: Step, request: InferRequest, stream: StepStream) -> None:
        """Hand a request to the model of a step; raises what refuses it."""

    def left(self, run: "EnsembleRun") -> None:
        """The request has its last answer."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What all requests to one ensemble work with; `limit` is `max_inflight_requests`."""

    name: str
    decoupled: bool
    form: BatchPlan
    statistics: ModelStatistics
    limit: int
    clock: Callable[[], int]


class EnsembleRun:
    """The state of one request, and what is done for it."""

    def __init__(self, home: Home, kit: Kit, pending: Pending, plan: Plan) -> None:
        self._home = home
        self._kit = kit
        self._pending = pending
        self._progress = Progress(plan, kit.limit)
        self._lock = threading.Lock()
        self._mail: deque[Callable[[], None]] = deque()
        self._at_work = False
        self._over = False
        self._open: set[StepStream] = set()
        # By the task: it is named when a frame that a response opened is over.
        self._decoupled: dict[object, StepStream] = {}
        self._answer: Answer | None = None
        self._spent = Timing(batch_size=pending.batch_size)
        self._responses = 0
        self._since_ns = pending.arrived_ns
        self._reader = threading.Lock()
        self.room = kit.limit or UNSENT_LIMIT
        self.deadline_ns = pending.deadline_ns

    # -- from outside: any thread ----------------------------------------------------------------

    def begin(self, inputs: dict[str, Tensor]) -> None:
        """Start what can be started."""
        self._tell(lambda: self._apply(self._progress.begin(inputs)))

    def news(self, stream: StepStream) -> None:
        """A step said something."""
        self._tell(partial(self._look, stream))

    def cancel(self, _: Pending) -> None:
        """The caller gave up."""
        self._tell(lambda: self._fail(given_up(self._pending, self._kit.clock())))

    def end(self, error: PenstockError) -> None:
        """Whatever has been done: the caller gets this."""
        self._tell(partial(self._fail, error))

    def stalled(self, stream: StepStream) -> None:
        """The steps after this one do nothing any more."""
        error = ResourceExhausted(
            f"the steps after it finished nothing within {STALLED_S:.0f} s",
            reason="STALLED",
            scheduled=True,
        )
        self.end(step_error(self._kit.name, stream.task.step, error))

    def wait_for_reader(self, timeout_s: float) -> bool:
        """Block while the caller has too much unread; False when it took nothing in time."""
        target = self._pending.stream
        # Streams are made for one producer; here several may wait. Whoever does so inside gives up
        # in time, and that of an ensemble around this one may take longer than `timeout_s`.
        if not self._reader.acquire(blocking=timeout_s > 0):
            return False
        try:
            return self._over or target.wait_for_room(timeout_s)
        finally:
            self._reader.release()

    def _tell(self, event: Callable[[], None]) -> None:
        with self._lock:
            self._mail.append(event)
            if self._at_work:
                return
            self._at_work = True
        while (next_event := self._next_event()) is not None:
            try:
                next_event()
            except PenstockError as error:
                self._fail(error)
            except Exception as error:
                _log.exception("a request to ensemble '%s' failed", self._kit.name)
                text = f"ensemble '{self._kit.name}' failed: {type(error).__name__}"
                self._fail(Internal(text, scheduled=True))

    def _next_event(self) -> Callable[[], None] | None:
        with self._lock:
            if not self._mail:
                self._at_work = False
                return None
            return self._mail.popleft()

    # -- steps -----------------------------------------------------------------------------------

    def _apply(self, moves: Moves) -> None:
        for answer in moves.answers:
            self._say(answer)
        for task in moves.over:
            stream = self._decoupled.get(task)
            if stream is not None:
                stream.response_over()
                self._let_go(stream)
        for start in moves.starts:
            if not self._over:
                self._start(start)
        if moves.done and not self._over:
            self._finish()

    def _start(self, start: Start) -> None:
        step = start.task.step
        stream = StepStream(self, start.task)
        self._open.add(stream)
        if step.decoupled:
            self._decoupled[start.task] = stream
        request = step_request(self._pending, start)
        try:
            self._home.call(step, request, stream)
        except PenstockError as error:
            if request.trace is not None:
                request.trace.finish(self._kit.clock(), error.status, error.message)
            self._open.discard(stream)
            self._fail(step_error(self._kit.name, step, error))

    def _look(self, stream: StepStream) -> None:
        """See what a step has said."""
        # Looked at first: what is there once it has ended is all there is.
        ended = stream.ended
        while not self._over and (response := stream.next_response()) is not None:
            self._respond(stream, response)
        if not ended or stream.settled or self._over:
            return
        stream.settled = True
        self._open.discard(stream)
        step, error = stream.task.step, stream.failure
        if error is None and not (stream.answered or step.decoupled):
            error = Internal("expected a single response, got 0", scheduled=True)
        if error is not None:
            self._fail(step_error(self._kit.name, step, error))
        else:
            self._apply(self._progress.end(stream.task))
            self._let_go(stream)

    def _let_go(self, stream: StepStream) -> None:
        """Forget a decoupled step that has ended, once all that followed from it is done."""
        if stream.settled and stream.all_over:
            self._decoupled.pop(stream.task, None)

    def _respond(self, stream: StepStream, response: InferResponse) -> None:
        task = stream.task
        if response.timing is not None:
            self._spent = _sum(self._spent, response.timing)
        if response.empty:
            return
        if stream.answered and not task.step.decoupled:
            error = Internal("expected a single response, got 2", scheduled=True)
            raise step_error(self._kit.name, task.step, error)
        stream.answered = True
        outputs = {tensor.name: handed_over(tensor) for tensor in response.outputs}
        self._apply(self._progress.respond(task, outputs, response.parameters))

    # -- answers ---------------------------------------------------------------------------------

    def _say(self, answer: Answer) -> None:
        """Pass a response on; the only one of an ordinary ensemble waits for the last step."""
        if self._over:
            return
        if not self._kit.decoupled:
            self._answer = answer
            return
        pending, kit = self._pending, self._kit
        response = kit.form.single(pending, _arrays(answer), answer.parameters)
        self._count("success")
        if not pending.stream.put(response) and not pending.stream.cancelled:
            raise Internal(
                "a response could not be encoded",
                reason="MODEL_FAILED",
                failure=FailureReason.BACKEND,
                scheduled=True,
            )

    def _count(self, outcome: Outcome) -> None:
        """Count a response of a decoupled ensemble, or what it had in place of the last."""
        kit, now = self._kit, self._kit.clock()
        if not kit.decoupled:
            return
        first = outcome == "success" and not self._responses
        first_ns = now - self._pending.arrived_ns if first else None
        kit.statistics.record_response(self._responses, now - self._since_ns, 0, outcome, first_ns)
        self._responses, self._since_ns = self._responses + 1, now

    def _finish(self) -> None:
        """Every step is done: the last answer."""
        pending, kit = self._pending, self._kit
        answer = pending.stream.ready(self._last())
        self._over = True
        total_ns = kit.clock() - pending.arrived_ns
        if pending.stream.cancelled:
            # It has been executed, but is no success.
            self._count("cancel")
            kit.statistics.record_failure(FailureReason.CANCELED, total_ns)
        else:
            spent, rows = self._spent, pending.batch_size
            kit.statistics.record_batch(
                rows,
                [RequestTiming(total_ns, 0, rows)],
                spent.compute_input_ns,
                spent.compute_infer_ns,
                spent.compute_output_ns,
            )
            self._count("empty")
        answer()
        self._leave()

    def _last(self) -> InferResponse:
        pending, form = self._pending, self._kit.form
        if self._kit.decoupled:
            return form.last(pending, self._spent)
        answer = self._answer
        if answer is None:
            raise Internal(f"ensemble '{self._kit.name}' made no outputs", scheduled=True)
        batch, parameters = Batch.of((pending,)), (answer.parameters,)
        return form.split(batch, _arrays(answer), parameters, (self._spent,))[0]

    def _fail(self, error: PenstockError) -> None:
        if self._over:
            return
        self._over = True
        duration_ns = self._kit.clock() - self._pending.arrived_ns
        self._count(outcome_of(error))
        self._kit.statistics.record_failure(error.failure, duration_ns)
        self._pending.stream.fail(error)
        for stream in tuple(self._open):
            stream.cancel()
        self._leave()

    def _leave(self) -> None:
        """Nothing of it stays behind."""
        self._open.clear()
        self._decoupled.clear()
        self._answer = None
        self._progress.forget()
        self._home.left(self)

    def __repr__(self) -> str:
        state = "over" if self._over else f"{len(self._open)} steps under way"
        return f"<EnsembleRun of '{self._kit.name}', {state}>"


def _arrays(answer: Answer) -> dict[str, object]:
    return {name: tensor.array for name, tensor in answer.outputs.items()}


def _sum(one: Timing, other: Timing) -> Timing:
    """The time of both; the batch is the ensemble's."""
    return Timing(
        one.queue_ns + other.queue_ns,
        one.compute_input_ns + other.compute_input_ns,
        one.compute_infer_ns + other.compute_infer_ns,
        one.compute_output_ns + other.compute_output_ns,
        one.batch_size,
    )
