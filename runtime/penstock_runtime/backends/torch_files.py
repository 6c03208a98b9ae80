"""Which file of a version directory a torch model is loaded from, and what kind of file it really
is. Looks at names and archive listings only: torch is not needed, and nothing is unpickled.
"""

import re
import zipfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import confined, has_file, listing
from penstock_runtime.errors import InvalidArgument

WEIGHTS = "model.safetensors"
SCRIPT = "model.pt"
EXPORTED = "model.pt2"
CODE = "model.py"
_ZIP_MAGIC = b"PK\x03\x04"
# Operators of TorchScript that write or map files of the server.
_FILE_ACCESS = re.compile(rb"\b(?:torch|ops\.aten)\.(save|from_file)\(")


class TorchKind(Enum):
    """How a torch model is stored."""

    SCRIPT = "TorchScript"
    EXPORTED = "torch.export"
    MODULE = "nn.Module"


@dataclass(frozen=True, slots=True)
class TorchFile:
    """The file of a model; `weights` is the file that fills an nn.Module, if there is one, and
    `pickled` tells that it is a pickle that was allowed.
    """

    kind: TorchKind
    path: Path
    weights: Path | None = None
    pickled: bool = False


class ArchiveKind(Enum):
    """What a file with weights turns out to be."""

    SCRIPT = "a TorchScript archive"
    EXPORTED = "an archive of torch.export"
    PICKLE = "a pickle"


def recognises(source: ModelSource) -> bool:
    """Whether the names in the version directory are those of a torch model."""
    named = source.config.default_model_filename
    if named:
        weighted = named.endswith(".py") and has_file(source, WEIGHTS)
        return has_file(source, named) and (weighted or named.endswith((".pt", ".pt2", ".pth")))
    if has_file(source, CODE):
        return has_file(source, WEIGHTS)
    return has_file(source, SCRIPT) or has_file(source, EXPORTED)


def find_file(source: ModelSource) -> TorchFile:
    """The file to load; InvalidArgument when there is none, several, or one that is refused."""
    name = source.config.default_model_filename or _default_name(source)
    path = confined(source, name)
    if name.endswith(".py"):
        return _module_file(source, path)
    kind = archive_kind(path)
    if kind is ArchiveKind.SCRIPT:
        _check_script(source, path)
        return TorchFile(TorchKind.SCRIPT, path)
    if kind is ArchiveKind.EXPORTED:
        return TorchFile(TorchKind.EXPORTED, path)
    check_pickle_allowed(source, path.name)
    raise InvalidArgument(
        f"model '{source.config.name}': {path.name} holds weights only, no program; put a model.py"
        " with the torch.nn.Module beside it"
    )


def check_pickle_allowed(source: ModelSource, filename: str) -> None:
    """Refuse a pickle, before a byte of it has been read as one."""
    if not source.allow_pickle:
        raise InvalidArgument(
            f"model '{source.config.name}': {filename} is a pickle, which can run code when it is"
            " read; use torch.jit.save, torch.export.save, or model.safetensors beside a model.py"
            " (or start the server with --allow-pickle for this model)"
        )


def archive_kind(path: Path) -> ArchiveKind:
    """What the file is by its first bytes and its list of members.

    A zip has to begin as one: a pickle in front of a zip passes for either.
    """
    with path.open("rb") as file:
        if file.read(4) != _ZIP_MAGIC:
            return ArchiveKind.PICKLE
    members = _members(path)
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        return ArchiveKind.SCRIPT
    if "archive_format" in members or any(name.startswith("models/") for name in members):
        return ArchiveKind.EXPORTED
    return ArchiveKind.PICKLE


def _members(path: Path) -> frozenset[str]:
    """Names in the archive without their common first folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidArgument(f"{path.name} is a damaged zip archive: {error}") from error
    if len(set(names)) != len(names):
        raise InvalidArgument(f"{path.name} is a zip archive with two members of one name")
    return frozenset(name.partition("/")[2] or name for name in names)


def _check_script(source: ModelSource, path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            found = _FILE_ACCESS.search(archive.read(name)) if name.endswith(".py") else None
            if found is not None:
                raise InvalidArgument(
                    f"model '{source.config.name}': {path.name} calls {found[1].decode()}(), which"
                    " reads or writes files of the server"
                )


def _default_name(source: ModelSource) -> str:
    if has_file(source, CODE):
        return CODE
    found = [name for name in (EXPORTED, SCRIPT) if has_file(source, name)]
    if len(found) == 1:
        return found[0]
    text = f"both {EXPORTED} and {SCRIPT}" if found else listing(source.directory)
    raise InvalidArgument(
        f"version {source.version} of model '{source.config.name}' has {text}; expected one of"
        f" {SCRIPT}, {EXPORTED}, or {CODE} with {WEIGHTS} (or default_model_filename)"
    )


def _module_file(source: ModelSource, path: Path) -> TorchFile:
    if has_file(source, WEIGHTS):
        return TorchFile(TorchKind.MODULE, path, confined(source, WEIGHTS))
    if not has_file(source, SCRIPT):
        return TorchFile(TorchKind.MODULE, path)
    weights = confined(source, SCRIPT)
    if archive_kind(weights) is not ArchiveKind.PICKLE:
        raise InvalidArgument(
            f"model '{source.config.name}' has {path.name} and a program in {SCRIPT}; say which in"
            " default_model_filename"
        )
    check_pickle_allowed(source, SCRIPT)
    return TorchFile(TorchKind.MODULE, path, weights, pickled=True)
