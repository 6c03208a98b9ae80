"""Between the host and a device without waiting: what goes down leaves from pinned memory, and what
comes up is asked for when it is wanted. A copy that waits would wait for the whole step before it.

On a CPU nothing moves.
"""

from typing import Any

import numpy.typing as npt
import torch


def down(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array on a device; what is enqueued after it finds it there. The array may change at once,
    unless the device is the CPU: then the tensor is the array.
    """
    here = torch.from_numpy(array)
    if device.type == "cpu":
        return here
    # torch keeps pinned memory until the copies from it are done.
    return here.pin_memory().to(device, non_blocking=True)


class Coming:
    """A tensor on its way to the host, as of now: what is enqueued later is not waited for."""

    __slots__ = ("_event", "_host")

    def __init__(self, x: torch.Tensor) -> None:
        self._event: Any = None
        self._host = x
        if x.device.type == "cuda":
            self._host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            self._host.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            # That of the tensor's device, whichever is current in this thread.
            self._event.record(torch.cuda.current_stream(x.device))

    def wait(self) -> torch.Tensor:
        """The tensor, on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
