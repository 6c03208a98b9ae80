"""Memory of large messages, used again: a fresh mapping is cleared by the kernel page by page,
which costs about as much as to receive the message.

Reference counts say when nobody uses it any more: whoever holds a view of a message, a model or an
answer that is being sent, keeps its memory from others.
"""

import sys
import threading
from typing import Any

import numpy as np

MOST_BYTES = 64 << 20
"""What is kept of memory that nobody uses, in the whole process."""

# Of the list that holds it, the local name and the call that counts.
_UNUSED = 3


class SpareMemory:
    """A few blocks, the one used last first. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._blocks: list[np.ndarray[Any, Any]] = []

    def take(self, size: int) -> memoryview:
        """So many bytes, with anything in them; a MemoryError if there is no memory."""
        with self._lock:
            for index in range(len(self._blocks) - 1, -1, -1):
                block = self._blocks[index]
                if size <= block.nbytes <= 2 * size and sys.getrefcount(block) == _UNUSED:
                    # The one used last is the one that caches still know.
                    self._blocks.append(self._blocks.pop(index))
                    return block[:size].data
            block = np.empty(size, np.uint8)
            if size <= self._most_bytes:
                self._blocks.append(block)
                self._trim()
            return block[:size].data

    def _trim(self) -> None:
        """Let go of the oldest; what is in use lives on by itself."""
        held = sum(block.nbytes for block in self._blocks)
        while held > self._most_bytes:
            held -= self._blocks.pop(0).nbytes

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._blocks.clear()

    def __repr__(self) -> str:
        return f"<SpareMemory {len(self._blocks)} blocks>"


SPARE = SpareMemory()
