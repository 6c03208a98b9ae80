"""Which devices this machine has, found without loading a CUDA library."""

from functools import cache
from pathlib import Path

_DRIVER = Path("/proc/driver/nvidia/gpus")


@cache
def cuda_device_count() -> int:
    """How many CUDA devices the driver shows; 0 without a driver.

    Read from the driver's own folder, so that a server without GPU models never loads CUDA.
    """
    try:
        return sum(1 for _ in _DRIVER.iterdir())
    except OSError:
        return 0
