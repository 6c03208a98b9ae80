"""A configuration from a mapping, JSON or YAML, and back to a mapping: one way for every file.

The mapping has the form of protobuf's JSON. What may stand in it is read off the dataclasses.
"""

from collections.abc import Mapping
from types import MappingProxyType

from penstock_runtime.config import ModelConfig
from penstock_runtime.config_document import json_document, yaml_document
from penstock_runtime.config_extra import ExtraConfig
from penstock_runtime.config_kinds import Misfit
from penstock_runtime.config_schema import FAULT_LIMIT, Fields, fields_of
from penstock_runtime.errors import InvalidArgument, Violation

_CONFIG = fields_of(ModelConfig)
_EXTRA = fields_of(ExtraConfig)
_ALL = Fields((*_CONFIG.specs, *_EXTRA.specs))
_EXTRA_NAMES = frozenset(spec.name for spec in _EXTRA.specs)


def read_config(data: Mapping[str, object]) -> ModelConfig:
    """The configuration that a mapping in protobuf's JSON form describes.

    Names may be in snake or camel case, enums names or numbers, integers numbers or text; null and
    a zero mean that a field is not set. InvalidArgument names the path, the value and what was
    expected of every field that is wrong.
    """
    return _read(data)


def parse_json(text: bytes | str) -> ModelConfig:
    """The configuration in JSON text of at most 4 MiB and 100 levels; no key may come twice."""
    return _read(json_document(text))


def parse_yaml(text: bytes | str) -> ModelConfig:
    """The configuration in YAML text of at most 256 KiB and 100 levels, without aliases and tags.

    Unsupported where PyYAML is not installed.
    """
    return _read(yaml_document(text))


def config_to_dict(config: ModelConfig, *, full: bool = False) -> dict[str, object]:
    """The configuration in protobuf's JSON form, names in snake case.

    What equals protobuf's zero is left out; with `full` it is there too, as Triton hands a
    configuration to Python models.
    """
    written = _CONFIG.write(config, full)
    written.update({name: _plain(value) for name, value in config.extra.items()})
    return written


def _read(data: object) -> ModelConfig:
    try:
        found = _ALL.read(data)
    except Misfit as misfit:
        raise _invalid(misfit) from None
    # The round through ExtraConfig writes what is kept in one form, whatever form it came in.
    extra = ExtraConfig(**{name: found.pop(name) for name in _EXTRA_NAMES & found.keys()})
    return ModelConfig(**found, extra=MappingProxyType(_EXTRA.write(extra, full=False)))


def _invalid(misfit: Misfit) -> InvalidArgument:
    violations = [Violation(path, text) for path, text in misfit.faults[:FAULT_LIMIT]]
    first = violations[0]
    return InvalidArgument(
        f"{first.field}: {first.description}" if first.field else first.description,
        reason="INVALID_MODEL_CONFIG",
        violations=tuple(violations),
    )


def _plain(value: object) -> object:
    """A copy that nothing else holds."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
