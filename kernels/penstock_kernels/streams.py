"""The stream that a thread works on, as torch and CuPy know it; neither is imported for it."""

import contextlib
import sys
from dataclasses import dataclass
from typing import Any


def torch_in_use() -> Any | None:
    """The module torch, if somebody uses it on a GPU; to have it installed or imported is not
    enough.
    """
    torch = sys.modules.get("torch")
    # One that another thread is just importing has no `cuda` yet.
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_initialized() else None


def torch_stream() -> int | None:
    """The handle of torch's current stream in this thread, on its current device; None where torch
    is not in use on a GPU.
    """
    torch = torch_in_use()
    return None if torch is None else int(torch.cuda.current_stream().cuda_stream)


def current_stream(cupy: Any) -> int:
    """What a launch in this thread belongs on: torch's stream, so that what torch computed before
    is done before; else CuPy's. Both are of the thread, and neither library knows the other's.
    """
    shared = torch_stream()
    return int(cupy.cuda.get_current_stream().ptr) if shared is None else shared


@dataclass(frozen=True, slots=True)
class _External:
    """A stream of somebody else's, in the form that CuPy 14 takes."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def shared_stream(cupy: Any) -> contextlib.AbstractContextManager[Any]:
    """CuPy works on torch's current stream, if torch is in use on a GPU: what it copies is then
    in order with what is launched there.
    """
    handle = torch_stream()
    if handle is None or handle == int(cupy.cuda.get_current_stream().ptr):
        return contextlib.nullcontext()
    if hasattr(cupy.cuda.Stream, "from_external"):
        made: contextlib.AbstractContextManager[Any] = cupy.cuda.Stream.from_external(
            _External(handle)
        )
        return made
    older: contextlib.AbstractContextManager[Any] = cupy.cuda.ExternalStream(handle)
    return older
