"""Whether a model says that it is ready: its `is_ready` is asked now and then by a thread of its
own, so that whoever wants to know never waits for a model.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("penstock.model")

EVERY_S = 1.0
# A model that takes longer to say so is not ready.
PATIENCE_S = 5.0


class Readiness:
    """Asks one instance; `ready` is what it said last."""

    def __init__(self, model: str, ask: Callable[[], Any], every_s: float = EVERY_S) -> None:
        self._model = model
        self._ask = ask
        self._every_s = every_s
        self._said = False
        self._asked_at: float | None = None
        self._stopped = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, name=f"{model}-ready", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the model is ready; one that does not answer is not."""
        asked_at = self._asked_at
        waits = asked_at is not None and time.monotonic() - asked_at > PATIENCE_S
        return self._said and not waits

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        self._asked_at = time.monotonic()
        try:
            said = bool(self._ask())
        except (Exception, SystemExit):
            said = False
            # Once, not every second.
            if self._said:
                _log.exception("model '%s' failed in is_ready", self._model)
        self._asked_at, self._said = None, said
