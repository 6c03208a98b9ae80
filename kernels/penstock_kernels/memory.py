"""Whose memory CuPy's arrays are: torch's, where torch is in use on a GPU; neither is imported for
it.

Two libraries that keep what was freed each keep it from the other, so there is one owner. Without
torch that is CuPy's own pool.
"""

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from penstock_kernels.streams import shared_stream, torch_in_use


class TorchMemory:
    """CuPy's allocations out of torch's caching allocator: what torch counts and gives back counts
    them too.

    An allocation belongs to the stream that CuPy works on when it is made, so that whoever gets the
    memory next on that stream comes after whoever used it before; it goes back there whatever is
    current then. Who reads an array on another stream has to be done before its last reference
    goes, as with torch's own tensors.
    """

    def __init__(self, cupy: Any, torch: Any) -> None:
        self._cupy = cupy
        self._torch = torch
        self.malloc = cupy.cuda.PythonFunctionAllocator(self._allocate, self._free).malloc

    def _allocate(self, size: int, device: int) -> int:
        stream = int(self._cupy.cuda.get_current_stream().ptr)
        return int(self._torch.cuda.caching_allocator_alloc(size, device, stream))

    def _free(self, pointer: int, device: int) -> None:
        self._torch.cuda.caching_allocator_delete(pointer)


def shared_memory(cupy: Any) -> contextlib.AbstractContextManager[Any]:
    """What CuPy allocates in this thread is torch's memory, if torch is in use on a GPU; whatever
    allocator the process has otherwise. The device is the current one.
    """
    torch = torch_in_use()
    if torch is None:
        return contextlib.nullcontext()
    memory = _memory_of(cupy, torch, int(cupy.cuda.runtime.getDevice()))
    made: contextlib.AbstractContextManager[Any] = cupy.cuda.using_allocator(memory.malloc)
    return made


@contextlib.contextmanager
def on_gpu(cupy: Any, ordinal: int) -> Iterator[None]:
    """This thread works by CuPy as torch does: on this GPU, torch's stream and torch's memory, the
    last two if torch is in use there.
    """
    with cupy.cuda.Device(ordinal), shared_stream(cupy), shared_memory(cupy):
        yield


@cache
def share_memory(cupy: Any) -> None:
    """From now on CuPy's arrays are of torch's memory in every thread of the process, as soon as
    torch is in use on a GPU. Once for a process: who sets another allocator afterwards keeps it.
    """
    before = cupy.cuda.get_allocator()

    def malloc(size: int) -> Any:
        torch = torch_in_use()
        if torch is None:
            return before(size)
        return _memory_of(cupy, torch, int(cupy.cuda.runtime.getDevice())).malloc(size)

    cupy.cuda.set_allocator(malloc)


@cache
def _memory_of(cupy: Any, torch: Any, device: int) -> TorchMemory:
    """The memory of a GPU, from when torch came; what CuPy's pool kept free until then is torch's
    to take.
    """
    cupy.get_default_memory_pool().free_all_blocks()
    return TorchMemory(cupy, torch)
