"""Small values that requests carry: where outputs should lie, whose trace a call belongs to."""

from typing import Any

from penstock_runtime.backends.base import RequestTask
from penstock_runtime.backends.triton_python.constants import TRITONSERVER_MEMORY_CPU
from penstock_runtime.backends.triton_python.failures import TritonModelException

_KINDS = (0, 1, 2)


class PreferredMemory:
    """Where the outputs of a call should lie: a wish. Outputs stay where their model made them."""

    __slots__ = ("device_id", "memory_type")

    def __init__(
        self, preferred_memory_type: int = TRITONSERVER_MEMORY_CPU, preferred_device_id: int = 0
    ) -> None:
        if preferred_memory_type not in _KINDS:
            raise TritonModelException(
                f"memory type {preferred_memory_type!r} is unknown, expected"
                " TRITONSERVER_MEMORY_CPU or TRITONSERVER_MEMORY_GPU"
            )
        self.memory_type = preferred_memory_type
        self.device_id = preferred_device_id

    def __repr__(self) -> str:
        return f"PreferredMemory({self.memory_type}, {self.device_id})"


class InferenceTrace:
    """The trace of a request. A call that is given it belongs to that request: it ends with it."""

    __slots__ = ("_context", "_task")

    def __init__(self, context: str | None = None, task: RequestTask | None = None) -> None:
        self._context = context
        self._task = task

    def get_context(self) -> str | None:
        """The context that other systems continue the trace by; None where there is none."""
        return self._context

    def __repr__(self) -> str:
        return f"InferenceTrace({self._context!r})"


def task_of(trace: Any) -> RequestTask | None:
    """The request that a trace belongs to."""
    return trace._task if isinstance(trace, InferenceTrace) else None
