"""Memory that ran out, of a device or of the host: every library has an exception of its own for
it, and callers get one answer.
"""

from penstock_runtime.errors import FailureReason, ResourceExhausted

# cudaErrorMemoryAllocation
_NO_MEMORY = 2


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception says: Python's, torch's or CuPy's, or CUDA's own code."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return True
    return kind == "CUDARuntimeError" and getattr(error, "status", None) == _NO_MEMORY


def memory_exhausted(text: str) -> ResourceExhausted:
    """The answer to a caller whose work found no memory; others, or a smaller batch, may."""
    return ResourceExhausted(
        text, reason="OUT_OF_MEMORY", failure=FailureReason.BACKEND, scheduled=True
    )
