"""A model that is held while requests for it come, so that a test says what waits together."""

import queue
from contextlib import suppress
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tests.e2e.asking import tensors
from tests.e2e.running import Running
from tests.http2.raw import eventually


class Asking:
    """Requests to one model, whose first execution lasts until `let_go`."""

    def __init__(self, running: Running, model: str) -> None:
        self.model = model
        self.served = running.server.core.model(model)
        self.inside: dict[str, Any] = self.served._loaded._target.__globals__  # type: ignore[attr-defined]
        self.answers: queue.Queue[Any] = queue.Queue()
        self._client = triton.InferenceServerClient(running.target)

    def hold(self) -> None:
        """Begin an execution that does not end."""
        self.inside["gate"].clear()
        self.inside["entered"].clear()
        self.inside["seen"].clear()
        self.send(1)
        for _ in range(100):
            if self.inside["entered"].wait(0.1):
                return
            # On a busy machine the first may wait too long for a queue of little patience.
            with suppress(queue.Empty):
                self.answers.get_nowait()
                self.send(1)
        raise AssertionError(f"no execution of '{self.model}' began")

    def send(self, value: float, rows: int = 1, length: int = 1, **more: Any) -> Any:
        """A request, which is queued when this returns."""
        before = self.served.queue_stats().requests
        array = np.full((rows, length), value, np.float32)

        def note(result: Any, error: Any) -> None:
            self.answers.put(error or float(result.as_numpy("Y")[0, 0]))

        return self._client.async_infer(self.model, tensors(X=array), note, **more), before

    def queue(self, value: float, rows: int = 1, length: int = 1, **more: Any) -> Any:
        """A request that waits in the queue when this returns."""
        call, before = self.send(value, rows, length, **more)
        eventually(lambda: self.served.queue_stats().requests > before, "the request waits")
        return call

    def next(self) -> Any:
        """The next answer, or the error."""
        return self.answers.get(timeout=20)

    def let_go(self, answers: int) -> list[list[float]]:
        """Everything is executed; the first values of each row, by execution."""
        self.inside["gate"].set()
        for _ in range(answers):
            assert not isinstance(self.next(), Exception)
        seen: list[list[float]] = self.inside["seen"]
        return seen

    def close(self) -> None:
        self.inside["gate"].set()
        self._client.close()
