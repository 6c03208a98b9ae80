"""A CuPy whose arrays are NumPy's, for kernel models on GPUs that are not there: what was asked of
it, and on which of them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.kernels.gpu_memory import CupyMemory

from penstock_kernels import run as kernels
from penstock_kernels.declare import Kernel
from penstock_kernels.run import Reference
from penstock_runtime.backends.kernel import place


class FakeStream:
    """What CuPy makes of a stream of somebody else's."""

    made: list[int] = []

    @staticmethod
    @contextmanager
    def from_external(stream: Any) -> Iterator[None]:
        FakeStream.made.append(stream.__cuda_stream__()[1])
        yield


class OnDevice(np.ndarray[Any, Any]):
    """An array with the two copies of CuPy's, which holds what was allocated for it."""

    memory: Any = None

    def set(self, host: Any, stream: Any) -> None:
        assert stream is not None
        self[...] = host

    def get(self) -> Any:
        return np.array(self)


class FakeCupy(CupyMemory):
    """As much of CuPy as a place uses: arrays of the host, and a log of what was asked where."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Any, ...]] = []
        self.cuda = SimpleNamespace(
            Device=self.device,
            Stream=FakeStream,
            get_current_stream=lambda: SimpleNamespace(ptr=0),
            runtime=SimpleNamespace(
                streamSynchronize=lambda stream: self.asked.append(("end", self.current, stream)),
                getDevice=lambda: self.current,
            ),
            PinnedMemory=bytearray,
            PinnedMemoryPointer=lambda memory, offset: memoryview(memory)[offset:],
            **self.allocation(),
        )
        self.ascontiguousarray, self.from_dlpack = np.ascontiguousarray, np.from_dlpack

    def empty(self, shape: Any, dtype: Any) -> Any:
        made = np.empty(shape, dtype).view(OnDevice)
        made.memory = self.alloc(made.nbytes)
        return made

    def zeros(self, shape: Any, dtype: Any) -> Any:
        made = self.empty(shape, dtype)
        made[...] = 0
        return made

    def asarray(self, array: Any) -> Any:
        if isinstance(array, OnDevice):
            return array
        made = self.empty(np.shape(array), array.dtype)
        made[...] = array
        return made


class FakeRunner:
    """Runs references, and writes down on which GPU."""

    name = "cuda"

    def __init__(self, cupy: FakeCupy, refuses: Exception | None = None) -> None:
        self._cupy = cupy
        self._refuses = refuses

    def run(self, kernel: Kernel, arguments: Mapping[str, Any], stream: int | None = None) -> None:
        self._cupy.asked.append(("run", self._cupy.current))
        Reference().run(kernel, arguments)

    def load(self, kernel: Kernel) -> None:
        self._cupy.asked.append(("load", self._cupy.current))
        if self._refuses is not None:
            raise self._refuses

    def forget(self, kernel: Kernel) -> None:
        self._cupy.asked.append(("forget", kernel.source.startswith("model.cu#")))

    def stream(self) -> int:
        return 7


def on_gpus(patch: pytest.MonkeyPatch, cupy: FakeCupy, runner: FakeRunner) -> None:
    """What is found of GPUs is this."""
    patch.setattr(place, "find_cupy", lambda: cupy)
    patch.setattr(kernels, "device_runner", lambda: runner)
