"""What a TorchServe model says of itself, as values: the manifest, model-config.yaml, and the entry
of the model in a config.properties beside it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock_runtime.config_document import JSON_LIMIT, YAML_LIMIT, json_document, yaml_document
from penstock_runtime.errors import InvalidArgument

MANIFEST = "MAR-INF/MANIFEST.json"
PROPERTIES = "config.properties"
MAX_BATCH = 1 << 16
MAX_DELAY_MS = 3_600_000
MAX_WORKERS = 1024

_HANDLER = re.compile(r"(?:.*/)?(\w+)(\.py)?(?::(\w+))?")
_FILE = re.compile(r"[^/\\\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is called; `entry` is the function or method, "" for the usual one, and
    `document` is all of model-config.yaml.
    """

    manifest: Mapping[str, Any]
    handler: str
    is_file: bool
    entry: str
    batch_size: int
    batch_delay_ms: int
    workers: int
    on_cpu: bool
    document: Mapping[str, Any]


def read_manifest(data: bytes | None) -> Mapping[str, Any]:
    """The manifest; InvalidArgument where it is missing or names no handler."""
    if data is None:
        raise _wrong(MANIFEST, "is missing", "what torch-model-archiver writes")
    found = json_document(data)
    model = found.get("model") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(model, dict):
        raise _wrong(MANIFEST, "describes no model", 'an object "model"')
    for field in ("serializedFile", "modelFile", "configFile"):
        value = model.get(field)
        if value and (not isinstance(value, str) or not _FILE.fullmatch(value) or value == ".."):
            raise _wrong(MANIFEST, f"has the {field} {str(value)[:64]!r}", "the name of a file")
    return found


def config_file(manifest: Mapping[str, Any]) -> str:
    """The name of the model's YAML configuration, "" for none."""
    return str(manifest["model"].get("configFile") or "")


def read_settings(
    manifest: Mapping[str, Any], yaml: bytes | None, properties: bytes | None, name: str
) -> Settings:
    """Everything together; YAML wins over properties. InvalidArgument names what is wrong."""
    document = _document(yaml)
    given = {**_model_properties(properties, manifest, name), **document}
    handler = str(manifest["model"].get("handler") or "")
    match = _HANDLER.fullmatch(handler)
    if match is None:
        raise _wrong(MANIFEST, f"has the handler {handler[:64]!r}", "'file.py' or 'file.py:entry'")
    return Settings(
        manifest=manifest,
        handler=match[1],
        is_file=bool(match[2]),
        entry=match[3] or "",
        batch_size=max(1, _number(given, "batchSize", MAX_BATCH)),
        batch_delay_ms=_number(given, "maxBatchDelay", MAX_DELAY_MS),
        workers=max(1, _number(given, "minWorkers", MAX_WORKERS)),
        on_cpu=str(given.get("deviceType", "")).lower() == "cpu",
        document=document,
    )


def _document(data: bytes | None) -> Mapping[str, Any]:
    if data is None:
        return {}
    found = yaml_document(data)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong("the model's YAML configuration", "is a list or a text", "names and values")
    return found


def _model_properties(
    data: bytes | None, manifest: Mapping[str, Any], name: str
) -> Mapping[str, Any]:
    """The entry of this model in the `models` of a config.properties; its default version."""
    text = _properties(data).get("models", "") if data is not None else ""
    if not text:
        return {}
    try:
        models = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(PROPERTIES, "has models that are no JSON", "an object") from error
    for known in (name, str(manifest["model"].get("modelName"))):
        versions = models.get(known) if isinstance(models, dict) else None
        if isinstance(versions, dict):
            entries = [entry for entry in versions.values() if isinstance(entry, dict)]
            entries.sort(key=lambda entry: entry.get("defaultVersion") is not True)
            return entries[0] if entries else {}
    return {}


def _properties(data: bytes) -> dict[str, str]:
    """Keys and values of a Java properties file; a line goes on after a backslash at its end."""
    text = re.sub(r"\\\r?\n[ \t]*", "", data.decode(errors="replace"))
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", "!")):
            found[key.strip()] = value.strip()
    return found


def _number(given: Mapping[str, Any], field: str, most: int) -> int:
    value = given.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise _wrong(field, f"is {repr(value)[:64]}", f"a number from 0 to {most}")
    return value


def _wrong(what: str, found: str, expected: str) -> InvalidArgument:
    return InvalidArgument(f"{what} {found}, expected {expected}")


LIMITS: Mapping[str, int] = {"json": JSON_LIMIT, "yaml": YAML_LIMIT}
