"""The labels of a model's outputs: text files in the model's folder, a line for each class.

They are read once, when the model is loaded; a file that lies anywhere else is never opened.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from penstock_runtime.config import ModelConfig, ModelOutput
from penstock_runtime.config_problem import Problems, error, not_a_file_name
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

Labels = Mapping[str, tuple[bytes, ...]]
"""By output, the label of each class, b"" where it has none."""

NO_LABELS: Labels = MappingProxyType({})

MAX_FILE_BYTES = 16 << 20
MAX_LABELS = 1_000_000
MAX_LABEL_BYTES = 1024


def read_labels(config: ModelConfig, root: Path) -> Labels:
    """The labels of every output that has a `label_filename`; `root` is the model's folder.

    InvalidArgument when a file is not there, leads out of the folder or is over a limit.
    """
    found = {o.name: _read(config.name, o, root) for o in config.output if o.label_filename}
    return MappingProxyType(found) if found else NO_LABELS


def read_label_file(model: str, output: str, name: str, root: Path) -> tuple[bytes, ...]:
    """The labels of one file, for an output whose values are labels. Raises as `read_labels`."""
    return _read(model, ModelOutput(output, DataType.BYTES, label_filename=name), root)


def label_problems(config: ModelConfig, root: Path) -> Problems:
    """What is wrong with the files; names that lead out are found by the check of the names."""
    for index, output in enumerate(config.output):
        field = f"output[{index}].label_filename"
        if not output.label_filename or any(not_a_file_name(field, output.label_filename)):
            continue
        try:
            _read(config.name or root.name, output, root)
        except InvalidArgument as failure:
            yield error(field, failure.message, "put a text file there, one label a line")


def _read(model: str, output: ModelOutput, root: Path) -> tuple[bytes, ...]:
    name = output.label_filename
    what = f"label file {name[:128]!r} of output '{output.name}' of model '{model}'"
    try:
        path = _confined(root, name)
        if path is None:
            raise InvalidArgument(f"{what} leads out of the model's folder")
        if not path.is_file():
            raise InvalidArgument(f"{what} is not there, expected a text file, one label a line")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    # A name that no file system takes, or, before Python 3.13, a link that leads back to itself.
    except (OSError, ValueError, RuntimeError):
        raise InvalidArgument(f"{what} cannot be read") from None
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{what} is larger than {MAX_FILE_BYTES} bytes, the most for labels")
    return _lines(what, data)


def _confined(root: Path, name: str) -> Path | None:
    """Where the file really is; None if that is not in the folder."""
    home = root.resolve()
    path = (home / name).resolve()
    return path if path.is_relative_to(home) else None


def _lines(what: str, data: bytes) -> tuple[bytes, ...]:
    count = data.count(b"\n")
    if count > MAX_LABELS:
        raise InvalidArgument(f"{what} has {count} lines, expected at most {MAX_LABELS}")
    # Not splitlines: it takes characters inside a label for ends of lines.
    labels = tuple(line.removesuffix(b"\r") for line in data.removesuffix(b"\n").split(b"\n"))
    longest = max(map(len, labels))
    if longest > MAX_LABEL_BYTES:
        raise InvalidArgument(
            f"{what} has a label of {longest} bytes, expected at most {MAX_LABEL_BYTES}"
        )
    return labels
