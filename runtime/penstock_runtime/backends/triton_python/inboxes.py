"""Who is woken by the answers of a call: a plain thread or a coroutine.

Whoever counts what waits is told first, in the thread that answers: a call that is answered waits
no longer, even if the one who made it has not noticed yet.
"""

import asyncio
from collections.abc import Callable

from penstock_runtime.loop_inbox import LoopInbox
from penstock_runtime.scheduling.gate import Gate
from penstock_runtime.stream import ResponseStream


class TellingInbox:
    """Opens a gate, which the thread that made the call waits at."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.gate = Gate()
        self._told = told

    def post(self, stream: ResponseStream) -> None:  # noqa: ARG002 - one inbox serves one stream
        """Something is new."""
        self._told()
        self.gate.open()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back now."""
        callback()


class TellingLoopInbox(LoopInbox):
    """The same for a coroutine; what it is given may also be waited for by its thread."""

    def __init__(self, told: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.gate = Gate()
        self._told = told

    def post(self, stream: ResponseStream) -> None:
        """Something is new."""
        self._told()
        self.gate.open()
        super().post(stream)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back now: the loop may have no further turn before the answer is waited for."""
        callback()
