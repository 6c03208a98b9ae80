"""A warm-up request in the hands of a model that answers by itself: nobody else hears of it."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from penstock_runtime.backends.base import SLOW_READER_S, Arrays, RequestTask
from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.request import EMPTY, InferRequest, Parameters

# A model that answers from a thread of its own and has not by now never will.
PATIENCE_S = 600.0


class WarmupTask(RequestTask):
    """Waits for the last answer, which is thrown away."""

    def __init__(self, request: InferRequest, arrays: Mapping[str, Any]) -> None:
        self.request = request
        self.arrays = arrays
        self._ended = threading.Event()
        self._error: PenstockError | None = None

    @property
    def abandoned(self) -> bool:
        """Whether it was not waited for any longer."""
        return False

    def send(
        self,
        outputs: Arrays,  # noqa: ARG002 - nobody looks at them
        parameters: Parameters = EMPTY,  # noqa: ARG002
        *,
        last: bool = True,
        patience_s: float = SLOW_READER_S,  # noqa: ARG002
    ) -> None:
        """Only the last is waited for."""
        if last:
            self._ended.set()

    def finish(self) -> None:
        """The last answer, which is none."""
        self._ended.set()

    def fail(self, error: PenstockError) -> None:
        """Keep the error for `wait`."""
        self._error = error
        self._ended.set()

    def on_abandon(self, callback: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        """Nobody gives up."""
        return _nothing

    def wait(self, timeout_s: float = PATIENCE_S) -> None:
        """Return once it is answered; raises its error, Internal if there was no last answer."""
        if not self._ended.wait(timeout_s):
            raise Internal(f"warm-up request '{self.request.id}' got no last answer")
        if self._error is not None:
            raise self._error


def _nothing() -> None:
    return
