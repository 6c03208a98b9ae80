"""CUDA source with its headers in it, so that what is hashed is what is compiled."""

import functools
import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parent / "cuda"

_INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)


@functools.cache
def flattened(name: str) -> str:
    """The file of `cuda/` with each of our headers in the place of its first `#include`."""
    return _expand(FOLDER, name, set())


def flatten(path: Path, headers: Path = FOLDER) -> str:
    """The same of a file anywhere, whose headers lie in `headers`."""
    return _inlined(path.read_text(), path.name, headers, set())


def headers(text: str) -> list[str]:
    """The names that a source includes in quotes."""
    return _INCLUDE.findall(text)


def digest(text: str, *more: str) -> str:
    """Names a source, and what else decides what is made of it."""
    return hashlib.sha256("\0".join((text, *more)).encode()).hexdigest()


def _expand(folder: Path, name: str, seen: set[str]) -> str:
    if name in seen:
        return ""
    seen.add(name)
    return _inlined((folder / name).read_text(), name, folder, seen)


def _inlined(text: str, name: str, folder: Path, seen: set[str]) -> str:
    parts, at = [f'#line 1 "{name}"\n'], 0
    for match in _INCLUDE.finditer(text):
        line = text.count("\n", 0, match.end()) + 2
        parts += [text[at : match.start()], _expand(folder, match[1], seen)]
        # Compilers name lines as the author sees them.
        parts.append(f'#line {line} "{name}"')
        at = match.end()
    return "".join([*parts, text[at:]])
