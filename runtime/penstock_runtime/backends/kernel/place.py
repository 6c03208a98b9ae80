"""Where the arrays of one instance live, and who executes its kernels: the host, or a GPU by CuPy.

Which of them is decided once, when an instance is made; whoever executes asks neither.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from penstock_kernels import run
from penstock_kernels.classify import TOP_K
from penstock_kernels.cuda_runner import Cuda
from penstock_kernels.declare import Kernel
from penstock_kernels.device import NoDeviceError, find_cupy
from penstock_kernels.gather import GATHER_PAD
from penstock_kernels.memory import on_gpu
from penstock_kernels.nvrtc import NvrtcMissingError
from penstock_kernels.run import Runner
from penstock_runtime.backends.base import Placement
from penstock_runtime.backends.kernel.deck import CupyDeck
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import FailedPrecondition, Unsupported
from penstock_runtime.memory.staging import Deck
from penstock_runtime.tensor import to_host

Shape = tuple[int, ...]


class Place(Protocol):
    """Arrays that kernels can be given, and a runner for them."""

    @property
    def runs_cuda(self) -> bool:
        """Whether CUDA source is executed here, and not a reference in its place."""

    def take(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """An array from anywhere as one here: contiguous, of this dtype, which only names its bytes
        otherwise.
        """

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """An array for a kernel that fills all of it."""

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """An array for a kernel of which nobody knows what it fills."""

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Run a kernel, after everything that this instance ran before."""

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Around an execution: what was computed is there when it ends."""

    def load(self, kernel: Kernel) -> None:
        """See to it that the first run of a kernel is as quick as the second."""

    def forget(self, kernel: Kernel) -> None:
        """Let go of what was loaded for a kernel that no other model has."""

    def deck(self) -> Deck | None:
        """What puts batches together here; None where the host does."""


class Host:
    """NumPy's arrays."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.runs_cuda = runner.name != "reference"

    def take(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array itself where it is in order; a device's is copied."""
        return np.ascontiguousarray(to_host(array)).view(dtype)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Host memory."""
        return np.empty(shape, dtype)

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Host memory."""
        return np.zeros(shape, dtype)

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Run a kernel to its end."""
        self._runner.run(kernel, arguments)

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing: whatever runs has ended."""
        return contextlib.nullcontext()

    def load(self, kernel: Kernel) -> None:
        """Nothing: there is no machine code."""

    def forget(self, kernel: Kernel) -> None:
        """Nothing: none was loaded."""

    def deck(self) -> Deck | None:
        """None: batches are merged as ever."""
        return None


class Device:
    """Arrays of CuPy on one GPU; kernels run on the stream that torch works on in this thread and
    arrays are of its memory, or of CuPy's where torch is not in use.
    """

    runs_cuda = True

    def __init__(self, cupy: Any, runner: Cuda, ordinal: int) -> None:
        self._cupy = cupy
        self._runner = runner
        self._ordinal = ordinal

    def take(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array itself where it is on this GPU and in order; the host's is copied."""
        cupy = self._cupy
        if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
            array = cupy.from_dlpack(array)
        return cupy.ascontiguousarray(cupy.asarray(array)).view(dtype)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Device memory."""
        return self._cupy.empty(shape, dtype)

    def zeros(self, shape: Shape, dtype: np.dtype[Any]) -> Any:
        """Device memory."""
        return self._cupy.zeros(shape, dtype)

    def run(self, kernel: Kernel, **arguments: Any) -> None:
        """Enqueue a kernel."""
        self._runner.run(kernel, arguments)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The GPU is current, and has finished at the end: the next step of an ensemble reads the
        outputs from another thread, on another stream.
        """
        with on_gpu(self._cupy, self._ordinal):
            yield
            self._cupy.cuda.runtime.streamSynchronize(self._runner.stream())

    def load(self, kernel: Kernel) -> None:
        """Compile it or find it compiled, and load it into this GPU."""
        try:
            with self._cupy.cuda.Device(self._ordinal):
                self._runner.load(kernel)
        except NvrtcMissingError as missing:
            raise Unsupported(
                f"kernel {kernel.name} was not built ahead of time for this GPU, and NVRTC, which"
                " would compile it, is not installed"
            ) from missing

    def forget(self, kernel: Kernel) -> None:
        """Unload it from every GPU."""
        self._runner.forget(kernel)

    def deck(self) -> Deck | None:
        """That of this GPU, its kernels loaded; None where they cannot be."""
        try:
            for kernel in (GATHER_PAD, TOP_K):
                self.load(kernel)
        except Unsupported:
            return None
        return CupyDeck(self._cupy, self._runner, self._ordinal)


def place_of(placement: Placement) -> Place:
    """The place of an instance; Unsupported where it is a GPU that nothing here can use."""
    if placement.kind != "KIND_GPU":
        return Host(run.host_runner())
    try:
        return Device(find_cupy(), run.device_runner(), placement.device_id)
    except NoDeviceError as missing:
        raise Unsupported(f"kernels on a GPU: {missing}") from missing


def kernel_dtype(datatype: DataType) -> np.dtype[Any]:
    """The dtype that kernels know a datatype by; BF16's comes from ml_dtypes."""
    if datatype is not DataType.BF16:
        return datatype.numpy
    try:
        import ml_dtypes
    except ImportError as missing:
        raise FailedPrecondition(
            "BF16 in kernels needs ml_dtypes, which is not installed: pip install ml_dtypes"
        ) from missing
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
