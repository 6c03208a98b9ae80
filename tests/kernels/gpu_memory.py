"""Torch's and CuPy's allocators for tests without a GPU: addresses and books, no memory.

Torch's keeps what is freed for the stream that it was allocated on, and refuses what is not its own
or was freed before.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

Malloc = Callable[[int], Any]


class OutOfMemoryError(RuntimeError):
    """What torch raises."""


class FakeTorch:
    """The module torch, in use on GPUs; `room` bytes are on each."""

    def __init__(self, room: int = 1 << 40) -> None:
        self.current_stream = 0
        self.in_use = True
        self.room = room
        # Address -> (size, device, stream) of what is allocated, and of what was freed.
        self.held: dict[int, tuple[int, int, int]] = {}
        self.freed: list[tuple[int, int, int]] = []
        self._next = 4096
        self.cuda = SimpleNamespace(
            is_initialized=lambda: self.in_use,
            current_stream=lambda: SimpleNamespace(cuda_stream=self.current_stream),
            caching_allocator_alloc=self._alloc,
            caching_allocator_delete=self._delete,
            empty_cache=lambda: None,
        )

    def memory_allocated(self, device: int) -> int:
        """Bytes of that GPU that somebody has."""
        return sum(size for size, on, _ in self.held.values() if on == device)

    def _alloc(self, size: int, device: int, stream: int) -> int:
        assert type(size) is type(device) is type(stream) is int
        if self.memory_allocated(device) + size > self.room:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 1 EiB, of which /a/b/c")
        self._next += 512
        self.held[self._next] = (size, device, stream)
        return self._next

    def _delete(self, pointer: int) -> None:
        self.freed.append(self.held.pop(pointer))


class _Memory:
    """CuPy's memory of an allocator's: it goes back with the last reference."""

    def __init__(self, size: int, device: int, malloc: Any, free: Any) -> None:
        self.size, self._device, self._free = size, device, free
        self.ptr = malloc(size, device) if size else 0

    def __del__(self) -> None:
        if getattr(self, "ptr", 0):
            self._free(self.ptr, self._device)


class CupyMemory:
    """The part of CuPy that allocates: a pool of its own, one allocator for the process and one for
    each thread that is within `using_allocator`.
    """

    def __init__(self) -> None:
        self.current: int | None = None
        self.stream = 0
        self.of_pool = 0
        self.pools_emptied: list[int | None] = []
        self.process: Malloc = self._of_pool
        self._thread = threading.local()

    def allocation(self) -> dict[str, Any]:
        """What goes into `cupy.cuda`."""
        return {
            "PythonFunctionAllocator": self._allocator,
            "using_allocator": self.using_allocator,
            "get_allocator": self.get_allocator,
            "set_allocator": self.set_allocator,
        }

    def get_default_memory_pool(self) -> Any:
        """CuPy's own."""
        return SimpleNamespace(
            free_all_blocks=lambda: self.pools_emptied.append(self.current),
        )

    def get_allocator(self) -> Malloc:
        """The thread's, else the process's."""
        found: Malloc | None = getattr(self._thread, "malloc", None)
        return self.process if found is None else found

    def set_allocator(self, malloc: Malloc) -> None:
        """As CuPy: not within `using_allocator`."""
        if getattr(self._thread, "malloc", None) is not None:
            raise ValueError("Can't change the global allocator inside `using_allocator`")
        self.process = malloc

    @contextmanager
    def using_allocator(self, malloc: Malloc) -> Iterator[None]:
        """That of this thread for a while."""
        before = getattr(self._thread, "malloc", None)
        self._thread.malloc = malloc
        try:
            yield
        finally:
            self._thread.malloc = before

    @contextmanager
    def device(self, number: int) -> Iterator[None]:
        """The current GPU for a while."""
        before, self.current = self.current, number
        try:
            yield
        finally:
            self.current = before

    def alloc(self, size: int) -> Any:
        """What an array of this size holds."""
        return self.get_allocator()(size)

    def _allocator(self, malloc: Any, free: Any) -> Any:
        return SimpleNamespace(malloc=lambda size: _Memory(size, self.current or 0, malloc, free))

    def _of_pool(self, size: int) -> Any:
        self.of_pool += size
        return SimpleNamespace(size=size)


class FakeCupy(CupyMemory):
    """No more of CuPy than what this is about."""

    def __init__(self) -> None:
        super().__init__()
        self.cuda = SimpleNamespace(
            Device=self.device,
            Stream=SimpleNamespace(from_external=self.on_stream),
            get_current_stream=lambda: SimpleNamespace(ptr=self.stream),
            runtime=SimpleNamespace(getDevice=lambda: self.current or 0),
            **self.allocation(),
        )

    @contextmanager
    def on_stream(self, stream: Any) -> Iterator[None]:
        """The current stream for a while."""
        before, self.stream = self.stream, stream.__cuda_stream__()[1]
        try:
            yield
        finally:
            self.stream = before
