"""A model-settings.json as values: what MLServer would read, checked. mlserver is not needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import confined, has_file
from penstock_runtime.config_document import JSON_LIMIT, json_document
from penstock_runtime.datatype import BY_WIRE_NAME, DataType
from penstock_runtime.errors import InvalidArgument

SETTINGS_FILE = "model-settings.json"
MAX_TENSORS = 256
MAX_DIMS = 32
MAX_BATCH = 1 << 20
MAX_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class MetadataTensor:
    """One tensor of the metadata; `shape` with the batch dimension, -1 for what may vary."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says; `batch_wait_s` is how long a batch waits for more requests."""

    name: str
    implementation: str
    uri: str
    max_batch_size: int
    batch_wait_s: float
    inputs: tuple[MetadataTensor, ...]
    outputs: tuple[MetadataTensor, ...]
    environment: str = ""

    @property
    def batches(self) -> bool:
        """Whether MLServer would batch: it needs a size above one and a time above none."""
        return self.max_batch_size > 1 and self.batch_wait_s > 0


def has_settings(source: ModelSource) -> bool:
    """Whether the version directory holds a model-settings.json."""
    return has_file(source, SETTINGS_FILE)


def find_settings(source: ModelSource) -> Settings:
    """The settings of a model; InvalidArgument for what cannot be served as it is there."""
    settings = read_settings(confined(source, SETTINGS_FILE))
    name = source.config.name
    # In a namespace the served name is more than the folder's.
    if settings.name not in ("", name, source.root.name):
        raise InvalidArgument(
            f"model '{name}': {SETTINGS_FILE} is for model '{settings.name[:128]}'; give the folder"
            " that name, or remove it from the file"
        )
    if settings.environment:
        raise InvalidArgument(
            f"model '{name}': {SETTINGS_FILE} asks for {settings.environment}, and models run in"
            " the environment of the server; install there what the model needs"
        )
    _check_uri(source, settings.uri)
    return settings


def _check_uri(source: ModelSource, uri: str) -> None:
    """A path has to stay in the model's folder; what is no path is the runtime's own affair."""
    scheme, _, rest = uri.partition("://")
    path = rest if scheme == "file" else uri
    if not uri or ("://" in uri and scheme != "file"):
        return
    home = source.root.resolve()
    if "\0" in path or not (source.directory / path).resolve().is_relative_to(home):
        raise InvalidArgument(
            f"model '{source.config.name}': parameters.uri {uri[:64]!r} leads out of the model's"
            " folder"
        )


def read_settings(path: Path) -> Settings:
    """The settings in a file; InvalidArgument names the field, what it is and what is expected."""
    with path.open("rb") as file:
        document = json_document(file.read(JSON_LIMIT + 1))
    fields = _mapping("the file", document)
    parameters = _mapping("parameters", fields.get("parameters") or {})
    return Settings(
        name=_text("name", fields.get("name")),
        implementation=_implementation(fields.get("implementation")),
        uri=_text("parameters.uri", parameters.get("uri")),
        max_batch_size=int(_number("max_batch_size", fields.get("max_batch_size"), MAX_BATCH)),
        batch_wait_s=_number("max_batch_time", fields.get("max_batch_time"), MAX_WAIT_S),
        inputs=_tensors("inputs", fields.get("inputs") or []),
        outputs=_tensors("outputs", fields.get("outputs") or []),
        environment=_environment(parameters),
    )


def _environment(parameters: Mapping[str, Any]) -> str:
    for key in ("environment_tarball", "environment_path"):
        if parameters.get(key):
            return f"parameters.{key}"
    return ""


def _implementation(value: object) -> str:
    text = _text("implementation", value)
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise _wrong("implementation", value, "'module.Class'")
    return text


def _tensors(field: str, value: object) -> tuple[MetadataTensor, ...]:
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise _wrong(field, value, f"a list of at most {MAX_TENSORS} tensors")
    found = tuple(_tensor(f"{field}[{index}]", item) for index, item in enumerate(value))
    if len({tensor.name for tensor in found}) != len(found):
        raise _wrong(field, [tensor.name for tensor in found], "each name once")
    return found


def _tensor(field: str, value: object) -> MetadataTensor:
    given = _mapping(field, value)
    name = _text(f"{field}.name", given.get("name"))
    datatype = BY_WIRE_NAME.get(_text(f"{field}.datatype", given.get("datatype")))
    shape = given.get("shape")
    if not name:
        raise _wrong(f"{field}.name", name, "a name")
    if datatype is None or datatype is DataType.BF16:
        raise _wrong(f"{field}.datatype", given.get("datatype"), "a datatype such as FP32")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_dim, shape)):
        raise _wrong(f"{field}.shape", shape, "a list of dims, -1 for one that may vary")
    return MetadataTensor(name, datatype, tuple(shape))


def _is_dim(value: object) -> bool:
    return type(value) is int and -1 <= value < 1 << 31 and value != 0


def _mapping(field: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(field, value, "an object")
    return value


def _text(field: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 1024:
        raise _wrong(field, value, "a text of at most 1024 characters")
    return value


def _number(field: str, value: object, most: float) -> float:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise _wrong(field, value, f"a number from 0 to {most:g}")
    return value


def _wrong(field: str, value: object, expected: str) -> InvalidArgument:
    return InvalidArgument(f"{SETTINGS_FILE}: {field} is {repr(value)[:80]}, expected {expected}")
