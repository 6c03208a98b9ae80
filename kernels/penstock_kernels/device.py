"""Which devices this machine has, found without loading a CUDA library; and CuPy."""

import contextlib
import os
import tempfile
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

_DRIVER = Path("/proc/driver/nvidia/gpus")
# What a sandbox shows of it that hides the folder.
_DEVICES = Path("/dev")


class NoDeviceError(RuntimeError):
    """Kernels cannot run on a GPU here; the message says what is missing."""


@cache
def cuda_device_count() -> int:
    """How many CUDA devices this process may use; 0 without a driver.

    Read from the driver's own folder and from its devices, so that a server without GPU models
    never loads CUDA: a sandbox may hide the one, and a container that was given a few of the
    devices still sees the folder of all. CUDA_VISIBLE_DEVICES is heard as CUDA hears it.
    """
    found = [_entries(_DRIVER, "*"), _entries(_DEVICES, "nvidia[0-9]*")]
    there = min(filter(None, found), default=0)
    return _visible(there, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _entries(folder: Path, pattern: str) -> int:
    try:
        return sum(1 for _ in folder.glob(pattern))
    except OSError:
        return 0


def _visible(there: int, said: str | None) -> int:
    """Of so many devices those that the variable names, as far as the first that is none."""
    if said is None or not there:
        return there
    names = [part.strip() for part in said.split(",")]
    return sum(1 for _ in takewhile(lambda name: _names_one(name, there), names))


def _names_one(name: str, there: int) -> bool:
    """A device's number; or its identity, which is believed."""
    return int(name) < there if name.isdecimal() else name.startswith(("GPU-", "MIG-"))


@cache
def find_cupy() -> Any:
    """The module cupy, with a device that answers. Raises NoDeviceError and nothing else."""
    if cuda_device_count() == 0:
        raise NoDeviceError("no CUDA device: the driver shows none")
    _give_cupy_a_folder()
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except ImportError as missing:
        raise NoDeviceError("CuPy is not installed: install penstock[cuda13]") from missing
    except Exception as broken:
        # A library of CUDA's may be missing or too old for the driver; CuPy says it in many ways.
        raise NoDeviceError(f"CuPy finds no usable CUDA: {type(broken).__name__}") from broken
    return cupy


def _give_cupy_a_folder() -> None:
    """CuPy cannot be imported where it cannot make its cache folder, and cannot compile where it
    may not write there.
    """
    given = os.environ.get("CUPY_CACHE_DIR")
    home = Path(given or os.path.expanduser("~/.cupy/kernel_cache"))
    # Without a home the path stays as it is written.
    if home.is_absolute() or given:
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            if os.access(home, os.W_OK):
                return
    with contextlib.suppress(OSError):
        os.environ["CUPY_CACHE_DIR"] = tempfile.mkdtemp(prefix="penstock-cupy-")
