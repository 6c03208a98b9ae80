"""The stream that a thread works on, as torch and CuPy know it; neither is imported for it."""

import sys
from typing import Any


def torch_stream() -> int | None:
    """The handle of torch's current stream in this thread, on its current device; None where torch
    is not in use on a GPU.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.current_stream().cuda_stream)


def current_stream(cupy: Any) -> int:
    """What a launch in this thread belongs on: torch's stream, so that what torch computed before
    is done before; else CuPy's. Both are of the thread, and neither library knows the other's.
    """
    shared = torch_stream()
    return int(cupy.cuda.get_current_stream().ptr) if shared is None else shared
