"""Builds the CPU's kernels where there is a compiler, once for each machine: into a folder of the
user's cache, named by all that the result depends on.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
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


class NotBuilt(Exception):
    """The kernels are not there, and cannot be made; the message says why."""


def built_library() -> Path:
    """The library, built if it is not there yet. Raises NotBuilt."""
    compiler = _compiler()
    library = cache_folder() / f"{_key(compiler)}.so"
    if not library.is_file():
        _build(compiler, library)
    return library


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


def _build(compiler: str, library: Path) -> None:
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            _output(_command(compiler, made))
            # Two processes may build at once: whoever is last replaces like by like.
            made.replace(library)
    except OSError as error:
        raise NotBuilt(f"the cache cannot be written: {error.strerror}") from error


def _command(compiler: str, library: Path) -> list[str]:
    torch_folder = Path(torch.__file__).parent
    return [
        compiler,
        *FLAGS,
        *(str(source) for source in sorted(SOURCES.glob("*.cpp"))),
        f"-I{torch_folder / 'include'}",
        f"-L{torch_folder / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
        "-o",
        str(library),
    ]
