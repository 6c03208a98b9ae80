"""Builds CUDA source into a shared library for the CPU, once per content: the cache is a folder."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
_HEADERS = ("fibers.h", "cuda_cpu.h", "fibers.cpp")
_FLAGS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    # Each library has a scheduler of its own.
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-strict-aliasing",
    # CUDA contracts where it likes; a sum that differs by platform would be no reference.
    "-ffp-contract=off",
    # A checked longjmp takes a switch of stacks for an attack.
    "-U_FORTIFY_SOURCE",
    "-Wno-unknown-pragmas",
    "-Wno-attributes",
)
_TIMEOUT_S = 120


class CompileError(RuntimeError):
    """The compiler refused the source; what it said is the message."""


def compiler() -> str | None:
    """The path of a C++ compiler, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def library(source: str, instances: Sequence[str], cache: Path) -> Path:
    """The library that holds `instances` (C++ name expressions) of flattened CUDA source.

    Raises CompileError.
    """
    exports = "".join(f"CUDA_CPU_EXPORT({i}, {name})\n" for i, name in enumerate(instances))
    code = f'{source}\n#line 1 "exports"\n{exports}'
    made = cache / f"{_key(code)}.so"
    if not made.exists():
        _make(
            made, code, ("-shared", "-include", str(_HERE / "cuda_cpu.h"), str(_scheduler(cache)))
        )
    return made


def _scheduler(cache: Path) -> Path:
    """The object file of the scheduler, which all libraries link."""
    code = (_HERE / "fibers.cpp").read_text()
    made = cache / f"{_key(code)}.o"
    if not made.exists():
        _make(made, code, ("-c", f"-I{_HERE}"))
    return made


def _make(made: Path, code: str, options: Sequence[str]) -> None:
    """Compile beside the goal and rename, so that others who build see all or nothing."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        source, out = Path(folder, "code.cpp"), Path(folder, made.name)
        source.write_text(code)
        objects = [option for option in options if option.endswith(".o")]
        others = [option for option in options if not option.endswith(".o")]
        _call([str(compiler()), *_FLAGS, *others, str(source), *objects, "-o", str(out)])
        out.replace(made)


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        raise CompileError(done.stderr[-4000:])


def _key(code: str) -> str:
    """Changes with the code, the executor's headers, the flags and the compiler."""
    parts = [
        code,
        _compiler_version(),
        repr(_FLAGS),
        *((_HERE / name).read_text() for name in _HEADERS),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _compiler_version() -> str:
    done = subprocess.run(
        [str(compiler()), "--version"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return done.stdout
