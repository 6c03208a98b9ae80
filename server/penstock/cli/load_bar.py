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

    def __call__(self, step: LoadProgress) -> None:
        """One more model is done."""
        with self._lock:
            if self._bar is None:
                self._bar = Progress("models", step.total)
            self._bar.update(step.done, step.name)
            if step.done >= step.total:
                self._bar.close()


def load_bar() -> LoadBar | None:
    """A bar if someone watches; everyone else has the log."""
    return LoadBar() if is_terminal(sys.stderr) else None
