"""Where a kernel's machine code comes from: built ahead of time, cached, or compiled now.

A cache entry's name is a digest of the flattened source, the instances, the options, the
architecture and the compiler, so an edited header never meets old code. A folder that cannot be
written costs only the cache.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock_kernels import nvrtc, table
from penstock_kernels.build import cubin_name
from penstock_kernels.source import digest, flattened

Compiler = Callable[[str, str, tuple[str, ...], str], nvrtc.Compiled]


@dataclass(frozen=True, slots=True)
class Binary:
    """A cubin and the symbol of each instance in it."""

    cubin: bytes
    symbols: dict[str, str]


@dataclass(frozen=True, slots=True)
class Cubins:
    """The three places, in their order."""

    built: Path
    cache: Path
    compile: Compiler = nvrtc.compile_cubin
    compiler_version: Callable[[], str] = nvrtc.version

    def find(self, source: str, instances: tuple[str, ...], arch: str, text: str = "") -> Binary:
        """The machine code of a source for an architecture (`90`): a file of ours, or `text`.

        Raises NvrtcMissingError when it was not built ahead of time and there is no compiler, whose
        version is part of a cache entry's name; NvrtcError when that refuses the source.
        """
        if text:
            return self._cached(source, text, instances, arch)
        built = self._built(source, instances, arch)
        return built or self._cached(source, flattened(source), instances, arch)

    def _built(self, source: str, instances: tuple[str, ...], arch: str) -> Binary | None:
        """What was built ahead of time, if it is of this very source."""
        known = table.read(self.built / table.PATH.name)
        entry = known.sources.get(source) if known else None
        if entry is None or entry.digest != table.source_digest(source, instances):
            return None
        # The table stays when cubins are rebuilt; these may be of an older source.
        mark = self.built / f"{cubin_name(source, arch)}.digest"
        try:
            if mark.read_text() != entry.digest:
                return None
            return Binary((self.built / cubin_name(source, arch)).read_bytes(), entry.symbols)
        except OSError:
            return None

    def _cached(self, source: str, text: str, instances: tuple[str, ...], arch: str) -> Binary:
        key = digest(text, *instances, *nvrtc.OPTIONS, arch, self.compiler_version())
        path = self.cache / f"{Path(source).stem}-{key[:32]}.cubin"
        with contextlib.suppress(OSError, ValueError):
            symbols = json.loads(path.with_suffix(".json").read_text())
            return Binary(path.read_bytes(), symbols)
        made = self.compile(text, source, instances, arch)
        with contextlib.suppress(OSError):
            self.cache.mkdir(parents=True, exist_ok=True)
            # The names come last: whoever finds them finds the code too.
            _write(path, made.cubin)
            _write(path.with_suffix(".json"), json.dumps(made.symbols).encode())
        return Binary(made.cubin, made.symbols)


def cache_folder() -> Path:
    """PENSTOCK_KERNEL_CACHE, or the user's cache folder; without a home, a folder that cannot
    be written.
    """
    given = os.environ.get("PENSTOCK_KERNEL_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base if os.path.isabs(base) else os.devnull, "penstock", "kernels")


def _write(path: Path, content: bytes) -> None:
    """All or nothing, whoever else writes the same."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(content)
    Path(part.name).replace(path)
