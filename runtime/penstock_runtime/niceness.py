"""How the threads that compute let those go first that receive and answer."""

import os
import sys
import threading
from contextlib import suppress

# What the threads of CPU instances add to their niceness; see docs/DECISIONS.md for the figures.
NICENESS = 6


def give_way() -> None:
    """Let the threads that receive and answer go first where there are too few cores for all.

    While those read what has come, the batch grows. On idle cores it changes nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            # Linux counts niceness by thread, so this is the caller's and not the server's.
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
