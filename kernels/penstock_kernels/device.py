"""Which devices this machine has, found without loading a CUDA library; and CuPy."""

import contextlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

_DRIVER = Path("/proc/driver/nvidia/gpus")
# What a sandbox shows of it that hides the folder.
_DEVICES = Path("/dev")


class NoDeviceError(RuntimeError):
    """Kernels cannot run on a GPU here; the message says what is missing."""


@cache
def cuda_device_count() -> int:
    """How many CUDA devices the driver shows; 0 without a driver.

    Read from the driver's own folder, else from its devices, so that a server without GPU models
    never loads CUDA.
    """
    try:
        return sum(1 for _ in _DRIVER.iterdir())
    except OSError:
        return sum(1 for _ in _DEVICES.glob("nvidia[0-9]*"))


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
    """CuPy cannot be imported where it cannot make its cache folder."""
    home = Path(os.environ.get("CUPY_CACHE_DIR") or Path("~/.cupy/kernel_cache").expanduser())
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        return
    with contextlib.suppress(OSError):
        os.environ["CUPY_CACHE_DIR"] = tempfile.mkdtemp(prefix="penstock-cupy-")
