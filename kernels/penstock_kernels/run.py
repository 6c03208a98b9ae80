"""Kernels by name. Who executes them is chosen once, when the process first runs or loads one."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

from penstock_kernels import registry, table
from penstock_kernels.cubins import Cubins, cache_folder
from penstock_kernels.cuda_runner import Cuda
from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError, find_cupy


class Runner(Protocol):
    """Executes a kernel on arguments that live where the runner expects them."""

    @property
    def name(self) -> str:
        """For logs and errors."""

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        """Execute, or enqueue on a stream (None: the caller's current one); the kernel's outputs
        are written in place.
        """


class Reference:
    """NumPy, on host arrays, at once."""

    name = "reference"

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        """Execute; there are no streams here. What the plan refuses is refused here too."""
        if kernel.launches(arguments):
            kernel.reference(**arguments)


def load(kind: str = "auto") -> Runner:
    """The runner of that kind: `cuda`, `reference`, or `auto`, which takes CUDA where it works.

    Raises NoDeviceError for `cuda` without a usable device, and ValueError for another kind.
    """
    if kind not in ("auto", "cuda", "reference"):
        raise ValueError(f"kernels by {kind!r}, expected auto, cuda or reference")
    if kind == "reference":
        return Reference()
    try:
        return Cuda(find_cupy(), Cubins(table.FOLDER, cache_folder()))
    except NoDeviceError:
        if kind == "cuda":
            raise
        return Reference()


@cache
def runner() -> Runner:
    """This process's."""
    try:
        return device_runner()
    except NoDeviceError:
        return host_runner()


@cache
def host_runner() -> Runner:
    """This process's for arrays of the host, whatever devices there are."""
    return load("reference")


@cache
def device_runner() -> Cuda:
    """This process's for arrays on its GPUs; NoDeviceError where there is none that works."""
    found = load("cuda")
    assert isinstance(found, Cuda)
    return found


def release_memory() -> None:
    """Free what is kept for the next arrays on GPUs; nothing where no GPU has been used."""
    made = _made_runner()
    if made is not None:
        made.release()


def _made_runner() -> Cuda | None:
    return device_runner() if device_runner.cache_info().currsize else None


def run(name: str, *, stream: int | None = None, **arguments: Any) -> None:
    """Run the kernel of that name by this process's runner; ValueError for a name there is not."""
    runner().run(registry.kernel(name), arguments, stream)
