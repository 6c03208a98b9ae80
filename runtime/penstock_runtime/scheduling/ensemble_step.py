"""One execution of a step of an ensemble: what its model is asked, and the stream of its answers,
which holds back a decoupled model that is faster than the steps after it.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from penstock_runtime import errors
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest, InferResponse, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.ensemble_frame import Start, Task
from penstock_runtime.scheduling.ensemble_graph import Step
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor, materialize

# A decoupled model that is held back gives up when nothing after it has been done for so long: it
# may be that what it waits for waits for it.
STALLED_S = 60.0


class Caller(Protocol):
    """The request that the step belongs to."""

    @property
    def room(self) -> int:
        """How many responses of a decoupled step may be on their way."""

    @property
    def deadline_ns(self) -> int | None:
        """After which nobody waits."""

    def news(self, stream: "StepStream") -> None:
        """A step said something; from any thread."""

    def wait_for_reader(self, timeout_s: float) -> bool:
        """Block while the caller has too much unread; False when it took nothing in time."""

    def stalled(self, stream: "StepStream") -> None:
        """The steps after this one do nothing any more."""


class StepInbox:
    """Tells the request that a step belongs to, in the thread that brings the news."""

    def post(self, stream: ResponseStream) -> None:
        """There is something new."""
        assert isinstance(stream, StepStream)
        stream.caller.news(stream)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back now."""
        callback()


_INBOX = StepInbox()


class StepStream(ResponseStream):
    """The answers of one step. `answered`: there was a response; `settled`: its end was seen."""

    def __init__(self, caller: Caller, task: Task) -> None:
        super().__init__(_INBOX)
        self.caller = caller
        self.task = task
        self.answered = False
        self.settled = False
        # Each is written by one thread only: the producer's, and whoever works for the request.
        self._sent = 0
        self._over = 0

    def _add(self, item: InferResponse, final: bool) -> bool:
        # Before it is there: it may be over before this returns.
        if not item.empty:
            self._sent += 1
        return super()._add(item, final)

    def next_response(self) -> InferResponse | None:
        """The next response that is there."""
        return self._items.popleft() if self._items else None

    @property
    def failure(self) -> PenstockError | None:
        """The error that ended it."""
        return self._error

    # -- holding the producer back ---------------------------------------------------------------

    def response_over(self) -> None:
        """All that followed from one of the responses has been done."""
        self._over += 1
        if self._room is not None:
            self._room.set()

    @property
    def all_over(self) -> bool:
        """Whether that is so for all of its responses."""
        return self._over >= self._sent

    @property
    def _is_held(self) -> bool:
        return (
            self._sent - self._over >= self.caller.room and not self.cancelled and not self._ended
        )

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block the producing thread while too many of its responses are on their way through the
        steps after it, however long these take, and then while the caller reads nothing.

        False when the caller took nothing in time, or those steps do nothing any more.
        """
        if self._is_held and (timeout_s <= 0 or not self._wait_for_steps()):
            return False
        return self.caller.wait_for_reader(timeout_s)

    def _wait_for_steps(self) -> bool:
        room = self._room = self._room or threading.Event()
        while True:
            room.clear()
            # Looked at again after clear(), or a step that was faster would never be noticed.
            if not self._is_held:
                return True
            deadline, patience_s = self.caller.deadline_ns, STALLED_S
            if deadline is not None:
                patience_s = min(patience_s, (deadline - time.monotonic_ns()) / 1e9)
            if patience_s <= 0:
                # Whoever produces looks at the deadline itself.
                return True
            if not room.wait(patience_s) and patience_s == STALLED_S:
                self.caller.stalled(self)
                return False

    def __repr__(self) -> str:
        state = "cancelled" if self.cancelled else "ended" if self._ended else "open"
        return f"<StepStream of {self.task.step}, {state}>"


def step_request(of: Pending, start: Start) -> InferRequest:
    """What the step's model is asked: all that the caller said, with the step's own tensors."""
    step, said = start.task.step, of.request
    inputs = tuple(
        _input(own, tensor, copied=step.writes and own in start.shared)
        for own, tensor in start.inputs.items()
    )
    trace = of.trace
    return InferRequest(
        step.model,
        inputs,
        step.version,
        id=said.id,
        outputs=tuple(map(RequestedOutput, step.asks)),
        parameters=said.parameters,
        headers=said.headers,
        deadline_ns=of.deadline_ns,
        priority=said.priority,
        timeout_us=said.timeout_us,
        correlation_id=said.correlation_id,
        sequence_start=said.sequence_start,
        sequence_end=said.sequence_end,
        received_ns=said.received_ns,
        trace=trace.child(step.model, time.monotonic_ns(), said.id) if trace is not None else None,
        depth=said.depth + 1,
    )


def _input(name: str, tensor: Tensor, *, copied: bool) -> Tensor:
    array = _copy(tensor.array) if copied else tensor.array
    return Tensor(name, tensor.datatype, tensor.shape, array)


def _copy(array: Any) -> Any:
    """Of a torch tensor too, which stays where it is."""
    return array.clone() if hasattr(array, "clone") else array.copy()


def handed_over(tensor: Tensor) -> Tensor:
    """A tensor for others to read: the same memory, which numpy lets nobody write to."""
    array = materialize(tensor).array
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return tensor._replace(shape=tuple(array.shape), array=array)


def step_error(ensemble: str, step: Step, error: PenstockError) -> PenstockError:
    """The error of a step as the ensemble's: of the same kind, and it says where it happened."""
    # Kinds that mean more than their status to whoever catches them mean it of the step only.
    kind = next(k for k in type(error).__mro__ if k.__module__ == errors.__name__)
    made: PenstockError = kind(
        f"in ensemble '{ensemble}', {step}: {error.message}",
        reason=error.reason,
        retry_after_ns=error.retry_after_ns,
        failure=error.failure,
        scheduled=True,
    )
    return made
