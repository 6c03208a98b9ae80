"""Where a TorchServe model lies: one `.mar` in the version directory, or its unpacked content."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import confined, listing
from penstock_runtime.backends.torch_files import ArchiveKind, archive_kind, check_pickle_allowed
from penstock_runtime.backends.torchserve.archive import open_archive, remove
from penstock_runtime.backends.torchserve.settings import (
    LIMITS,
    MANIFEST,
    PROPERTIES,
    Settings,
    config_file,
    read_manifest,
    read_settings,
)
from penstock_runtime.errors import InvalidArgument

SUFFIX = ".mar"
_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill"})
_WEIGHTS = frozenset({".pt", ".pth", ".bin", ".ckpt"})
_Read = Callable[[str, int], bytes | None]


class ModelFolder:
    """The files of a model as they are executed: its own, or a private copy until `close`."""

    def __init__(self, path: Path, private: Path | None = None) -> None:
        self.path = path
        self._private = private

    def close(self) -> None:
        """Remove the private copy; more than once does no harm."""
        if self._private is not None:
            remove(self._private)


def recognises(source: ModelSource) -> bool:
    """Whether the version directory holds an archive, or what is in one."""
    return bool(_archives(source)) or (source.directory / MANIFEST).is_file()


def find_settings(source: ModelSource) -> Settings:
    """What the model says of itself; nothing is unpacked for it."""
    path = _archive(source)
    if path is None:
        return _settings(source, lambda name, limit: _read_inside(source, name, limit))
    with open_archive(path) as archive:
        return _settings(source, archive.read)


def has_member(source: ModelSource, name: str) -> bool:
    """Whether a file of this name is in the archive or the folder."""
    path = _archive(source)
    if path is None:
        return (source.directory / name).is_file()
    with open_archive(path) as archive:
        return name in archive.names


def unpack(source: ModelSource) -> ModelFolder:
    """The model's files, unpacked if need be, and without pickles that are not allowed."""
    path = _archive(source)
    if path is None:
        folder = ModelFolder(source.directory)
    else:
        private = Path(tempfile.mkdtemp(prefix="penstock-mar-"))
        folder = ModelFolder(private, private)
    try:
        if path is not None:
            with open_archive(path) as archive:
                archive.unpack(folder.path)
        _check_pickles(source, folder.path)
    except BaseException:
        folder.close()
        raise
    return folder


def _archives(source: ModelSource) -> list[str]:
    named = source.config.default_model_filename
    if named:
        return [named] if named.endswith(SUFFIX) else []
    try:
        entries = list(source.directory.iterdir())
    except OSError:
        return []
    return sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX))


def _archive(source: ModelSource) -> Path | None:
    names = _archives(source)
    if len(names) > 1:
        raise InvalidArgument(
            f"version {source.version} of model '{source.config.name}' has {', '.join(names[:8])};"
            " say which in default_model_filename"
        )
    if names:
        return confined(source, names[0])
    if not (source.directory / MANIFEST).is_file():
        raise InvalidArgument(
            f"version {source.version} of model '{source.config.name}' has no archive (.mar) and no"
            f" {MANIFEST}, only {listing(source.directory)}"
        )
    return None


def _settings(source: ModelSource, read: _Read) -> Settings:
    manifest = read_manifest(read(MANIFEST, LIMITS["json"]))
    name = config_file(manifest)
    yaml = read(name, LIMITS["yaml"]) if name else None
    properties = _read_inside(source, PROPERTIES, LIMITS["yaml"])
    return read_settings(manifest, yaml, properties, source.config.name)


def _read_inside(source: ModelSource, name: str, limit: int) -> bytes | None:
    """A file of the folder that is neither elsewhere nor leads there: the manifest may name it."""
    path = source.directory / name
    homes = (source.root.resolve(), source.directory.resolve())
    if "\0" in name or not any(path.resolve().is_relative_to(home) for home in homes):
        raise InvalidArgument(
            f"model '{source.config.name}': {name[:64]!r} leads out of the model's folder"
        )
    return _read(path, limit)


def _read(path: Path, limit: int) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidArgument(f"{path.name} has more than {limit} bytes")
    return data


def _check_pickles(source: ModelSource, folder: Path) -> None:
    """Refuse every file that is a pickle, whoever would read it, unless the operator allows it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and is_pickle(path):
            check_pickle_allowed(source, path.name)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, by its name or by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        return True
    if suffix not in _WEIGHTS:
        return False
    with path.open("rb") as file:
        start = file.read(4)
    # Weights of another kind may be called .bin as well: a pickle begins with its protocol.
    if start[:1] == b"\x80":
        return True
    return start == b"PK\x03\x04" and archive_kind(path) is ArchiveKind.PICKLE
