"""Which files an ONNX model consists of, and that all of them lie in its own folder.

A model file may name files with its weights (external data). ONNX Runtime opens what is named, so
the names are looked at before it is asked.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import confined, has_file
from penstock_runtime.backends.onnx.external import locations
from penstock_runtime.errors import InvalidArgument

DEFAULT_FILENAME = "model.onnx"
# No model has so many; each is looked up in the file system.
MAX_EXTERNAL = 100_000


@dataclass(frozen=True, slots=True)
class OnnxFiles:
    """The model file, the files with its weights, and what all of them weigh in bytes."""

    path: Path
    external: tuple[Path, ...]
    size: int


def recognises(source: ModelSource) -> bool:
    """Whether the names in the version directory are those of an ONNX model."""
    name = source.config.default_model_filename or DEFAULT_FILENAME
    return name.endswith(".onnx") and has_file(source, name)


def find_files(source: ModelSource) -> OnnxFiles:
    """The files of the model; InvalidArgument when one is missing, broken or lies elsewhere."""
    path = confined(source, source.config.default_model_filename or DEFAULT_FILENAME)
    external = tuple(_external(source, path))
    size = sum(file.stat().st_size for file in (path, *external))
    return OnnxFiles(path, external, size)


def _external(source: ModelSource, path: Path) -> Iterator[Path]:
    for number, location in enumerate(sorted(_named(path))):
        if number >= MAX_EXTERNAL:
            raise _refused(source, path, f"names more than {MAX_EXTERNAL} files")
        yield _inside(source, path, location)


def _named(path: Path) -> set[str]:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise InvalidArgument(f"{path.name} is empty, expected an ONNX model")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return locations(data, path.name)


def _inside(source: ModelSource, path: Path, location: str) -> Path:
    """The file of this location; refused when it is not one below the version directory."""
    parts = PurePosixPath(location).parts
    if not parts or location[0] == "/" or ".." in parts or "\\" in location or "\0" in location:
        raise _refused(source, path, f"keeps weights in {location[:64]!r}, outside of its folder")
    file = source.directory / location
    if not file.is_file():
        raise _refused(source, path, f"keeps weights in {location[:64]!r}, which is not there")
    homes = (source.root.resolve(), source.directory.resolve())
    if not any(file.resolve().is_relative_to(home) for home in homes):
        raise _refused(
            source, path, f"keeps weights in {location[:64]!r}, a link out of its folder"
        )
    return file


def _refused(source: ModelSource, path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(f"model '{source.config.name}': {path.name} {what}")
