"""The files of one version directory, as far as a backend may touch them."""

from pathlib import Path

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import InvalidArgument

_SHOWN = 8


def confined(source: ModelSource, filename: str) -> Path:
    """The file of this name in the version directory.

    Raises InvalidArgument when the name holds a path, when the file is not there, and when a link
    leads out of the model's folder: code and weights come from the repository and nowhere else.
    """
    name = source.config.name
    if (
        not filename
        or "/" in filename
        or "\\" in filename
        or "\0" in filename
        or filename[0] == "."
    ):
        raise InvalidArgument(
            f"model '{name}': {filename[:64]!r} is not the name of a file in the version directory"
        )
    path = source.directory / filename
    if not path.is_file():
        raise InvalidArgument(
            f"version {source.version} of model '{name}' has no file '{filename}', only"
            f" {listing(source.directory)}"
        )
    homes = (source.root.resolve(), source.directory.resolve())
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise InvalidArgument(
            f"model '{name}': '{filename}' is a link that leads out of the model's folder"
        )
    return path


def has_file(source: ModelSource, filename: str) -> bool:
    """Whether the version directory holds a plain file of this name."""
    return bool(filename) and "/" not in filename and (source.directory / filename).is_file()


def listing(directory: Path) -> str:
    """The names in a directory, for an error text."""
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError:
        return "nothing that can be read"
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown or "nothing"
