"""How the thread that computes is made ready: how many threads a model on a CPU computes with,
which GPU is current.
"""

import os

from penstock_runtime.backends.host import cpu_threads
from penstock_runtime.niceness import give_way


def thread_count(asked: int) -> int:
    """So many threads if that was asked for, else all cores but one, and at least one."""
    return asked if asked > 0 else cpu_threads()


def prepare_thread(asked: int, device: str) -> None:
    """Called in the thread that computes, whose own the number of threads and the GPU are."""
    import torch

    if device != "cpu":
        # Not all that a model calls goes by where its tensors are.
        torch.cuda.set_device(device)
        return
    # With a core to spare, those that receive and answer have one; other programs need no favour.
    if thread_count(asked) >= len(os.sched_getaffinity(0)):
        give_way()
    torch.set_num_threads(thread_count(asked))
