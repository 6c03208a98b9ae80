"""A lost connection that is opened anew beside the load. Whatever holds this up (names, handshakes,
a server that takes connections and says nothing) must not hold up the calls on other connections.
"""

import contextlib
import threading
from collections.abc import Callable

from penstock.bench.http2_link import Link
from penstock.client.errors import InferenceError

Dial = Callable[[int], Link]
"""Opens the connection of this number, and waits until its server speaks; or InferenceError."""


class Redial:
    """One attempt, in a thread of its own. `link` is what came of it once it is `over`, if any."""

    def __init__(self, dial: Dial, number: int) -> None:
        self.over = False
        self.link: Link | None = None
        self._unwanted = False
        self._lock = threading.Lock()
        # The end of the process does not wait for a server that says nothing.
        threading.Thread(
            target=self._run, args=(dial, number), name="penstock-bench-redial", daemon=True
        ).start()

    def _run(self, dial: Dial, number: int) -> None:
        try:
            with contextlib.suppress(InferenceError):
                self._keep(dial(number))
        finally:
            self.over = True

    def _keep(self, link: Link) -> None:
        with self._lock:
            self.link = link
            if self._unwanted:
                link.close()

    def drop(self) -> None:
        """Close the connection, now or when it comes."""
        with self._lock:
            self._unwanted = True
            if self.link is not None:
                self.link.close()

    def __repr__(self) -> str:
        return f"<Redial {self.link if self.over else 'under way'}>"
