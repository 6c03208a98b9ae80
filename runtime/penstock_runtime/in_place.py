"""An instance that lends itself: it is executed in place by whoever brings requests, never by two
at a time.
"""

import logging
import threading
import time
from collections.abc import Sequence

from penstock_runtime.backends.base import Executable
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.execution import Desk
from penstock_runtime.execution_alone import execute_alone, straight_of
from penstock_runtime.loop_inbox import hold_news, tell_news
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import HANDFUL_NS

_log = logging.getLogger("penstock.instance")

# Twice a handful: whoever asks is an event loop, and the other side has a handful to end.
_PATIENCE_S = 2 * HANDFUL_NS / 1e9
BUSY_NS = 10_000_000
"""For how long nobody asks again for an instance that executes something longer."""
SLOW_NS = 20_000_000
"""Who takes this long has not kept its promise, and is not executed in place for a while."""
REST_NS = 60_000_000_000


class LentInstance:
    """`with lent.own:` is how the instance's own thread executes it. InvalidArgument where there is
    no function that could be called in place.
    """

    def __init__(self, desk: Desk, executable: Executable) -> None:
        if straight_of(desk, executable) is None:
            raise InvalidArgument(
                f"instance '{desk.name}' cannot be executed in place: that takes a function of"
                " arrays, with no context, that returns the one output",
                reason="LOAD_FAILED",
            )
        self.own = threading.Lock()
        self._desk = desk
        self._executable = executable
        self._rests_until_ns = 0

    def seize(self) -> bool:
        """Whether it may be executed now by the calling thread; `release` has to follow."""
        if self._rests_until_ns and time.monotonic_ns() < self._rests_until_ns:
            return False
        if self.own.acquire(timeout=_PATIENCE_S):
            return True
        # Or whoever serves others as well would wait as long in each of its turns.
        self._rests_until_ns = time.monotonic_ns() + BUSY_NS
        return False

    def release(self) -> None:
        """Let others execute it."""
        self.own.release()

    def execute(self, members: Sequence[Pending]) -> None:
        """Answer these one by one, and tell those who wait for it at once."""
        began = time.monotonic_ns()
        hold_news()
        try:
            execute_alone(self._desk, self._executable, members)
        finally:
            spent = time.monotonic_ns() - began
            tell_news()
        if spent > SLOW_NS:
            self._rest(spent)

    def _rest(self, spent_ns: int) -> None:
        self._rests_until_ns = time.monotonic_ns() + REST_NS
        _log.warning(
            "%s is to be executed in place and took %.0f ms, in which nobody else was served: for"
            " %.0f s it is executed in its own thread",
            self._desk.name,
            spent_ns / 1e6,
            REST_NS / 1e9,
        )

    def __repr__(self) -> str:
        return f"<LentInstance {self._desk.name}>"
