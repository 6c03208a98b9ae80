"""What a load call may bring along: a configuration and files that stand in for the model's own.

Everything a caller names is checked before anything is written, and written only into a private
temporary folder that goes away with the model.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from penstock_runtime.errors import InvalidArgument, ResourceExhausted
from penstock_runtime.repository.index import parse_version

_log = logging.getLogger("penstock.repository")

FILE_PREFIX = "file:"
DRY_RUN = "dry_run"
MAX_COMPONENT_BYTES = 255
MAX_PATH_BYTES = 2048
MAX_FILES = 1024
MAX_TOTAL_BYTES = 2**31

LoadParameter = bool | int | str | bytes


def _shown(text: str) -> str:
    """The caller's text, cut and escaped, in quotes."""
    return f"'{json.dumps(text[:128])[1:-1]}'"


def _check_path(path: str) -> None:
    version, _, name = path.partition("/")
    parts = name.split("/")
    if parse_version(version) is None or not name:
        raise InvalidArgument(
            f"invalid override file {_shown(FILE_PREFIX + path)}, expected "
            "'file:<version>/<name>' with a positive version"
        )
    if any(part in ("", ".", "..") for part in parts) or not path.isprintable() or "\\" in path:
        raise InvalidArgument(
            f"invalid override file {_shown(FILE_PREFIX + path)}, the name must not contain path "
            "traversal characters"
        )


def _check_no_file_is_a_folder(files: Mapping[str, bytes]) -> None:
    for path in files:
        parts = path.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in files:
                raise InvalidArgument(
                    f"override file {_shown(FILE_PREFIX + path)} lies inside another override file"
                )


@dataclass(frozen=True, slots=True)
class LoadOverrides:
    """A configuration as JSON text, and files by `<version>/<name>`.

    With files the model's own folder is ignored altogether. InvalidArgument when a file would lie
    anywhere but in a version's folder. `dry_run`: say what would be wrong, and change nothing.
    """

    config_json: str | None = None
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.files and self.config_json is None:
            raise InvalidArgument("override files need the load parameter 'config' beside them")
        if len(self.files) > MAX_FILES:
            raise InvalidArgument(f"{len(self.files)} override files, expected at most {MAX_FILES}")
        total = sum(map(len, self.files.values()))
        if total > MAX_TOTAL_BYTES:
            raise InvalidArgument(
                f"override files hold {total} bytes, expected at most {MAX_TOTAL_BYTES}"
            )
        for path in self.files:
            _check_path(path)
        _check_no_file_is_a_folder(self.files)

    @property
    def overlong(self) -> str | None:
        """A path that no file system would take, if there is one.

        Apart from the other checks because Triton answers it like a failing repository.
        """
        for path in self.files:
            sizes = [len(part.encode()) for part in path.split("/")]
            if max(sizes) > MAX_COMPONENT_BYTES or sum(sizes) + len(sizes) > MAX_PATH_BYTES:
                return path
        return None


NO_OVERRIDES = LoadOverrides()


def parse_load_parameters(parameters: Mapping[str, LoadParameter]) -> LoadOverrides:
    """The parameters of a load call; InvalidArgument names the one that is wrong."""
    config: str | None = None
    files: dict[str, bytes] = {}
    dry_run = False
    for key, value in parameters.items():
        if key == "config":
            if not isinstance(value, str):
                raise _wrong_type(key, "string_param")
            config = value
        elif key == DRY_RUN:
            if not isinstance(value, bool):
                raise _wrong_type(key, "bool_param")
            dry_run = value
        elif key.startswith(FILE_PREFIX):
            if not isinstance(value, bytes):
                raise _wrong_type(key, "bytes_param")
            files[key.removeprefix(FILE_PREFIX)] = value
        else:
            raise InvalidArgument(
                f"unrecognized load parameter {_shown(key)}, expected 'config', "
                f"'{DRY_RUN}' or 'file:<version>/<name>'"
            )
    return LoadOverrides(config, files, dry_run)


def parse_unload_parameters(parameters: Mapping[str, LoadParameter]) -> bool:
    """Whether the models that only the unloaded one used are unloaded too."""
    dependents = False
    for key, value in parameters.items():
        if key != "unload_dependents":
            raise InvalidArgument(
                f"unrecognized unload parameter {_shown(key)}, expected 'unload_dependents'"
            )
        if not isinstance(value, bool):
            raise _wrong_type(key, "bool_param")
        dependents = value
    return dependents


class OverrideFolder:
    """The override files of one load, in a private temporary folder until `close`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        try:
            self._private = Path(tempfile.mkdtemp(prefix="penstock-load-"))
            self.path = self._private / "model"
            self._write(files)
        except OSError as error:
            _log.warning("override files cannot be stored", exc_info=True)
            raise ResourceExhausted(
                f"the override files cannot be stored: {error.strerror}"
            ) from error

    def _write(self, files: Mapping[str, bytes]) -> None:
        try:
            self.path.mkdir()
            for path, content in files.items():
                target = self.path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Remove the files; more than once does no harm."""
        shutil.rmtree(self._private, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<OverrideFolder {'open' if self._private.exists() else 'closed'}>"


def _wrong_type(key: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"invalid value type for load parameter {_shown(key)}, expected {expected}."
    )
