"""One request in the hands of a model, in the process of that model: what it says goes to the
server, where the request is.
"""

import threading
from collections.abc import Callable

from penstock_runtime.backends.base import SLOW_READER_S, Arrays, RequestTask
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.errors import PenstockError, ResourceExhausted
from penstock_runtime.isolation.child_link import ChildLink
from penstock_runtime.isolation.frames import Frame, Kind
from penstock_runtime.isolation.traces import marks_note
from penstock_runtime.isolation.values import error_note, parameters_note
from penstock_runtime.isolation.window import TASK_WINDOW, Window
from penstock_runtime.request import EMPTY, InferRequest, Parameters
from penstock_runtime.watchers import Watchers


class RemoteTask(RequestTask):
    """As `HeldTask`, which it stands for."""

    __slots__ = (
        "_decoupled",
        "_ended",
        "_gone",
        "_iterative",
        "_link",
        "_lock",
        "_number",
        "_watchers",
        "_window",
        "arrays",
        "request",
        "rescheduled",
    )

    def __init__(
        self,
        link: ChildLink,
        number: int,
        request: InferRequest,
        arrays: Arrays,
        *,
        decoupled: bool,
        iterative: bool = False,
    ) -> None:
        self.request = request
        self.arrays = arrays
        self._link = link
        self._number = number
        self._decoupled = decoupled
        self._iterative = iterative
        self.rescheduled = False
        self._lock = threading.Lock()
        self._ended = False
        self._gone = False
        self._window = Window(TASK_WINDOW)
        self._watchers = Watchers(self._lock)
        link.listen("task", number, self._heard)

    def _heard(self, said: Frame) -> None:
        if said.kind is Kind.CREDIT:
            self._window.add(1)
            return
        self._gone = True
        self._window.end()
        self._take(gone=True)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for an answer any more."""
        return self._gone

    @property
    def has_room(self) -> bool:
        """Whether `send` would not have to wait for a reader."""
        return self._ended or not self._decoupled or self._window.has_room

    def on_abandon(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, from any thread, if nobody waits any more; what is returned ends that."""
        return self._watchers.add(callback)

    def reschedule(self, again: bool = True) -> None:
        """Ask for a further step of the request after this one, or no more."""
        if again and not self._iterative:
            super().reschedule()
        self.rescheduled = again

    def send(
        self,
        outputs: Arrays,
        parameters: Parameters = EMPTY,
        *,
        last: bool = True,
        patience_s: float = SLOW_READER_S,
    ) -> None:
        """Answer with these outputs."""
        last = last or not self._decoupled
        if self._ended:
            return
        if not last and not self._window.take(patience_s):
            if not self._gone:
                self.fail(_slow_reader(patience_s))
            return
        if last and not self._take():
            return
        marks = marks_note((self.request.trace,)) if last else {}
        note = {"parameters": parameters_note(parameters), "last": last, **marks}
        try:
            self._link.send(Kind.ANSWER, self._number, note, outputs)
        except PenstockError as error:
            self._refuse(error)
        except OSError:
            raise
        except Exception as error:
            # What no message can hold: the request must not wait for it.
            self._refuse(execution_failure(error, self.request.model_name))

    def finish(self) -> None:
        """End a decoupled request without a further response."""
        if self._take():
            self._link.send(Kind.FINISHED, self._number, marks_note((self.request.trace,)))

    def fail(self, error: PenstockError) -> None:
        """End with an error."""
        if self._take():
            self._refuse(error)

    def _refuse(self, error: PenstockError) -> None:
        self._take()
        self._link.send(Kind.REFUSED, self._number, {"error": error_note(error)})

    def drop(self) -> None:
        """The server answers it itself."""
        self._take()

    def _take(self, *, gone: bool = False) -> bool:
        """The end, for the one who comes first; `gone` if nobody waits any more."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
        self.arrays = {}
        self._link.forget("task", self._number)
        self._watchers.close(gone=gone)
        return True

    def __repr__(self) -> str:
        return f"<RemoteTask {self._number}, {'ended' if self._ended else 'open'}>"


def _slow_reader(patience_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"the reader of the stream took nothing for {patience_s:.0f} s",
        reason="SLOW_READER",
        scheduled=True,
    )
