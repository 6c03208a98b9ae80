"""What model code needs of the process: quiet OpenMP threads before a numeric library is imported,
and memory that goes back to the system after a model is gone.
"""

import ctypes
import gc
import importlib.util
import logging
import os
import re
import sys
from functools import cache
from pathlib import Path

from penstock_kernels.device import cuda_device_count

_log = logging.getLogger("penstock.model")

# Spinning OpenMP threads burn a core between two executions and slow each other down tenfold when
# there are more of them than cores. Both variables are read once, when the library is loaded.
PASSIVE_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

_CPU_ONLY = re.compile(r"^cuda\b[^=\n]*= *None *$", re.MULTILINE)


def prepare_openmp() -> None:
    """Let idle OpenMP threads sleep, unless the environment says otherwise.

    Has an effect only before torch (or another user of OpenMP) is imported.
    """
    for key, value in PASSIVE_OPENMP.items():
        os.environ.setdefault(key, value)


def cpu_threads() -> int:
    """Threads for one execution on the CPU: all cores of this process but one, which serves."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@cache
def torch_uses_gpus() -> bool:
    """Whether the installed torch is built for GPUs: read off its files, since it is not imported
    to decide where a model goes. Where there is none, whoever loads the model says so.
    """
    try:
        found = importlib.util.find_spec("torch")
        text = Path(found.origin or "").with_name("version.py").read_text() if found else ""
    except (OSError, ValueError):
        return True
    if _CPU_ONLY.search(text) is None:
        return True
    if cuda_device_count():
        _log.warning("torch is built for the CPU: its models are there, although there are GPUs")
    return False


class _Settled:
    """Whether full collections pass over what `settle` found."""

    now = False


def settle() -> None:
    """Have full collections of garbage pass over all objects that there are now, and are no garbage
    yet. A model brings hundreds of thousands, which stay, and looking at them stops every thread
    for a tenth of a second. For a process of our own: in another's, what stays is not ours to say.
    """
    _Settled.now = True
    # What was settled before is not looked at here either.
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Collect what is unreachable and return free memory to the system and the devices.

    Called once a model's last reference has been dropped.
    """
    if _Settled.now:
        gc.unfreeze()
    gc.collect()
    if _Settled.now:
        gc.freeze()
    _empty_torch()
    _empty_cupy()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def _empty_torch() -> None:
    """What torch keeps of GPUs' memory and of pinned memory, if it is in use on a GPU."""
    torch = sys.modules.get("torch")
    # One that another thread is just importing has no `cuda` yet.
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return
    cuda.empty_cache()
    empty_pinned = getattr(getattr(torch, "_C", None), "_host_emptyCache", None)
    if empty_pinned is not None:
        empty_pinned()


def _empty_cupy() -> None:
    """What CuPy keeps for its next arrays, if kernels have been run by it."""
    release = getattr(sys.modules.get("penstock_kernels.run"), "release_memory", None)
    if release is not None:
        release()


def _malloc_trim() -> "ctypes._NamedFuncPointer | None":
    """The function of glibc that gives free heap pages back; None with any other C library."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
