"""One CUDA source with its instances, executed on this CPU."""

import ctypes
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from penstock_kernels.declare import Launch
from penstock_kernels.emulate.compile import library
from penstock_kernels.emulate.memory import Guarded

# The scheduler catches faults for the whole process, so one kernel runs at a time.
_ONE_AT_A_TIME = threading.Lock()


class KernelFault(RuntimeError):
    """A kernel broke a rule of CUDA: which, in which block and thread, at which line."""


class Module:
    """What was built of one source; launching takes the arrays as they are, and copies them."""

    def __init__(self, source: str, instances: Sequence[str], cache: Path) -> None:
        self._library = ctypes.CDLL(str(library(source, instances, cache)))
        self._library.cuda_cpu_error.restype = ctypes.c_char_p
        self._index = {name: i for i, name in enumerate(instances)}

    def launch(self, launch: Launch, outputs: Sequence[Any] = (), order: int = 0) -> None:
        """Run one launch. Only arrays that are `outputs`, or parts of them, may be written.

        `order` of threads, warps and blocks: 0 forward, 1 backward, each warp running ahead as far
        as barriers allow; any larger number is the seed of a random interleaving. Raises
        KernelFault and MemoryRuleError.
        """
        with _ONE_AT_A_TIME, ExitStack() as held:
            slots = [self._slot(value, outputs, held) for value in launch.arguments]
            done = self._call(launch, slots, order)
            if done < 0:
                expected = -done - 1
                raise TypeError(
                    f"{launch.instance} was given {len(slots)} arguments, expected {expected}"
                )
            if done:
                raise KernelFault(self._library.cuda_cpu_error().decode())

    def _call(self, launch: Launch, slots: Sequence[Any], order: int) -> int:
        geometry = (ctypes.c_uint * 6)(*launch.grid, *launch.block)
        pointers = (ctypes.c_void_p * max(1, len(slots)))(*map(ctypes.addressof, slots))
        function = getattr(self._library, f"cuda_cpu_launch_{self._index[launch.instance]}")
        return int(
            function(
                geometry,
                ctypes.c_size_t(launch.shared_bytes),
                ctypes.c_uint(order),
                pointers,
                ctypes.c_uint(len(slots)),
            )
        )

    def _slot(self, value: Any, outputs: Sequence[Any], held: ExitStack) -> Any:
        """The bytes of one argument as the kernel receives it."""
        if value is None:
            return ctypes.c_void_p(0)
        if isinstance(value, np.ndarray):
            written = any(out is not None and np.may_share_memory(value, out) for out in outputs)
            guarded = Guarded(value, writable=written)
            held.callback(guarded.close)
            return ctypes.c_void_p(guarded.address)
        return (ctypes.c_char * value.nbytes).from_buffer_copy(value.tobytes())
