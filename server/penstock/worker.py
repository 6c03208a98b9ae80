"""The start of one of several processes that serve the same, `python -m penstock.worker NUMBER
DESCRIPTOR`: it learns what it is to be, and sees to it that it does not outlive its supervisor.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from penstock.worker_channel import WorkerEnd

FAILED = 1
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Serve as the supervisor at the other end of this descriptor wants; the exit code.

    The number is in the assignment as well: among the arguments it is for whoever lists processes.
    """
    _number, descriptor = arguments
    end = WorkerEnd(int(descriptor))
    try:
        assignment = end.assignment()
    except ValueError:
        # The supervisor ended before it had said anything.
        return FAILED
    die_with(assignment.parent)
    sys.path[:] = assignment.path
    # Only now, where the path is right. It takes a while, in which a signal simply ends this.
    from penstock.app import run_main
    from penstock.worker_server import WorkerServer

    server = WorkerServer(assignment, end)
    return run_main(assignment.options, server.serve, assignment.number)


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends; end it at once if that is gone.

    Where the kernel cannot, the end of the channel has to do.
    """
    if sys.platform == "linux":
        # Nothing that holds the interpreter or the loop can come between.
        prctl = ctypes.CDLL(None).prctl
        prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        end_now()


def end_now() -> None:
    """End this process without ceremony, from any thread."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
