"""Builds the CPU's kernels where there is a compiler, once for each machine: into a folder of the
user's cache, named by all that the result depends on. Images have them built ahead of time, by

    python -m penstock_runtime.llm.cpu_build
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "cpu"
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    # Not -ffast-math: linked into a library, it changes how the whole process rounds.
    "-fno-math-errno",
    "-fno-trapping-math",
    # A product that is rounded before it is added gives what the model's own code gives.
    "-ffp-contract=off",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-w",
)
COMPILERS = ("g++", "c++", "clang++")
LIMIT_S = 300
SHIPPED = Path(__file__).parent / "cpu_built"


@dataclass(frozen=True, slots=True)
class Level:
    """Processors that a library can be built for ahead of time: what they can do, in the kernel's
    words, and the compiler's flags for them.
    """

    name: str
    needs: frozenset[str]
    flags: tuple[str, ...]


_AVX2 = frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level(
        "avx512bf16",
        _AVX512 | {"avx512_bf16", "avx512vbmi"},
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vbmi"),
    ),
    Level("avx512", _AVX512, ("-march=x86-64-v4",)),
    Level("avx2", _AVX2, ("-march=x86-64-v3",)),
)
"""The best first."""


class NotBuilt(Exception):
    """The kernels are not there, and cannot be made; the message says why."""


def built_library() -> Path:
    """The library: one that came with the package, else built if it is not there yet. Raises
    NotBuilt.
    """
    came = shipped_library()
    if came is not None:
        return came
    compiler = _compiler()
    library = cache_folder() / f"{_key(compiler)}.so"
    if not library.is_file():
        _build(compiler, library, FLAGS)
    return library


def shipped_library() -> Path | None:
    """The best library for this processor of those that were built ahead of time, for this torch
    and these sources, as images have them; None where there is none.
    """
    has = _features()
    for level in LEVELS if platform.machine() in ("x86_64", "AMD64") else ():
        library = _shipped(level)
        if level.needs <= has and library.is_file():
            return library
    return None


def build_shipped() -> list[Path]:
    """Build one for each level of processors, where `shipped_library` looks. Raises NotBuilt."""
    made = []
    for level in LEVELS:
        library = _shipped(level)
        flags = [flag for flag in FLAGS if not flag.startswith("-march")]
        _build(_compiler(), library, (*flags, *level.flags))
        made.append(library)
    return made


def _shipped(level: Level) -> Path:
    digest = hashlib.sha256(torch.__version__.encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    return SHIPPED / f"{level.name}-{digest.hexdigest()[:16]}.so"


def _features() -> frozenset[str]:
    """What this processor can do, in the kernel's words."""
    flags = (line for line in _processor().splitlines() if line.startswith("flags"))
    return frozenset(next(flags, "").partition(":")[2].split())


def cache_folder() -> Path:
    """Where built kernels are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "penstock" / "cpu_kernels"


def _compiler() -> str:
    named = os.environ.get("CXX", "").split()[:1]
    for name in (*named, *COMPILERS):
        found = shutil.which(name)
        if found:
            return found
    raise NotBuilt("there is no C++ compiler")


def _key(compiler: str) -> str:
    """Sources, torch, compiler and processor: code of another processor could not be executed."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    version = _output([compiler, "--version"])
    for part in (torch.__version__, " ".join(FLAGS), version, _processor()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, check=True
        ).stdout
    except subprocess.CalledProcessError as error:
        raise NotBuilt(f"the compiler failed: {_first_error(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"the compiler did not run: {type(error).__name__}") from error


def _first_error(text: str) -> str:
    lines = text.splitlines()
    found = [line for line in lines if "error" in line] or lines[-1:] or ["it says nothing"]
    return found[0].rpartition("error:")[2].strip()[:200]


def _build(compiler: str, library: Path, flags: Sequence[str]) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _output(_command(compiler, made, flags))
            # Two processes may build at once: whoever is last replaces like by like.
            made.replace(library)
    except OSError as error:
        raise NotBuilt(f"the cache cannot be written: {error.strerror}") from error


def _command(compiler: str, library: Path, flags: Sequence[str]) -> list[str]:
    torch_folder = Path(torch.__file__).parent
    return [
        compiler,
        *flags,
        *(str(source) for source in sorted(SOURCES.glob("*.cpp"))),
        f"-I{torch_folder / 'include'}",
        f"-L{torch_folder / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
        "-o",
        str(library),
    ]


if __name__ == "__main__":
    for built in build_shipped():
        print(built.name)
