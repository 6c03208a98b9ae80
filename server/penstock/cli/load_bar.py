"""A bar while the models of a start are loaded."""

import sys
import threading

from penstock.cli.progress import Progress
from penstock.cli.terminal import is_terminal
from penstock_runtime.repository.start_report import LoadProgress


class LoadBar:
    """Shows how many models are loaded; it is told from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._weights: dict[str, Progress] = {}

    def __call__(self, step: LoadProgress) -> None:
        """One more model is done."""
        with self._lock:
            if self._bar is None:
                self._bar = Progress("models", step.total)
            self._weights.pop(step.name, None)
            self._bar.update(step.done, step.name)
            if step.done >= step.total:
                self._bar.close()

    def reading(self, model: str, done: int, total: int) -> None:
        """So many bytes of a model's weights are read: a bar of its own, on the same line."""
        with self._lock:
            bar = self._weights.get(model)
            if bar is None:
                bar = self._weights[model] = Progress(model, total)
            bar.update(done, f"{done >> 20} of {total >> 20} MiB")


def load_bar() -> LoadBar | None:
    """A bar if someone watches; everyone else has the log."""
    return LoadBar() if is_terminal(sys.stderr) else None
