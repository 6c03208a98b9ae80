"""NVIDIA's run-time compiler by its C interface: CUDA source to a cubin, without a GPU or a header.

The library comes with CUDA's toolkit or the wheel `nvidia-cuda-nvrtc`, and is opened at first use.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPTIONS = ("-std=c++17", "-default-device", "-lineinfo", "--ptxas-options=-v")
_SYSTEM = Path("/usr/local/cuda/lib64")
_DONE = 0


class NvrtcMissingError(RuntimeError):
    """There is no NVRTC on this machine."""


class NvrtcError(RuntimeError):
    """NVRTC refused the source; what it said is the message."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A cubin, the symbol of each instance in it, and what ptxas said of them."""

    cubin: bytes
    symbols: dict[str, str]
    log: str


def available() -> bool:
    """Whether there is an NVRTC."""
    try:
        _library()
    except NvrtcMissingError:
        return False
    return True


def version() -> str:
    """Its version, as `13.0`; NvrtcMissingError without one."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compile_cubin(source: str, name: str, instances: Sequence[str], arch: str) -> Compiled:
    """Compile flattened source for an architecture (`90`).

    Raises NvrtcError with the compiler's words, and NvrtcMissingError.
    """
    library = _library()
    with _program(library, source, name) as program:
        for instance in instances:
            _check(library, library.nvrtcAddNameExpression(program, instance.encode()))
        options = [option.encode() for option in (f"-arch=sm_{arch}", *OPTIONS)]
        done = library.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*options)
        )
        log = _text(library, program, "ProgramLog").rstrip(b"\0").decode()
        if done != _DONE:
            raise NvrtcError(f"{name} for sm_{arch}: {log}")
        symbols = {instance: _symbol(library, program, instance) for instance in instances}
        return Compiled(_text(library, program, "CUBIN"), symbols, log)


@contextmanager
def _program(library: Any, source: str, name: str) -> Iterator[Any]:
    program = ctypes.c_void_p()
    text = source.encode()
    made = library.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None)
    _check(library, made)
    try:
        yield program
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: Any, program: Any, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _symbol(library: Any, program: Any, instance: str) -> str:
    name = ctypes.c_char_p()
    _check(library, library.nvrtcGetLoweredName(program, instance.encode(), ctypes.byref(name)))
    # The name belongs to the program, and this is a copy of it.
    return (name.value or b"").decode()


def _check(library: Any, done: int) -> None:
    if done != _DONE:
        raise NvrtcError(library.nvrtcGetErrorString(done).decode())


@functools.cache
def _library() -> Any:
    for path in _candidates():
        try:
            # NVRTC looks for this one by its name alone, and not in its own folder.
            for part in Path(path).parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(part))
            library = ctypes.CDLL(path)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise NvrtcMissingError(
        "no NVRTC library: install nvidia-cuda-nvrtc, or a CUDA toolkit, to compile kernels"
    )


def _candidates() -> Iterator[str]:
    """The wheel's, which the environment chose; then the system's."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    # The folder is called by the major version of CUDA, or in older wheels by the library.
    wheels = itertools.chain.from_iterable(
        sorted(folder.glob("*/lib/libnvrtc.so.*"), reverse=True) for folder in folders
    )
    yield from map(str, wheels)
    system = ctypes.util.find_library("nvrtc")
    yield from [system] if system else []
    yield from map(str, sorted(_SYSTEM.glob("libnvrtc.so.*"), reverse=True))
