"""Parameters of requests and responses: models read JSON text and write dictionaries."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from penstock_runtime.backends.triton_python.failures import TritonModelException
from penstock_runtime.request import EMPTY, Parameters

NONE = "{}"


def read_parameters(given: Any) -> Parameters:
    """What a dictionary (or its JSON text) says. TritonModelException for what cannot travel."""
    if given is None:
        return EMPTY
    if isinstance(given, str):
        given = _parsed(given)
    if not isinstance(given, Mapping):
        raise TritonModelException(
            f"parameters are a {type(given).__name__}, expected a dictionary"
        )
    for key, value in given.items():
        if not isinstance(key, str):
            raise TritonModelException(f"parameter {key!r} has a key that is no text")
        if not isinstance(value, bool | int | float | str):
            raise TritonModelException(
                f"parameter '{key}' is a {type(value).__name__}, expected a bool, int, float or str"
            )
    return MappingProxyType(dict(given)) if given else EMPTY


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise TritonModelException(f"parameters are not valid JSON: {error}") from None


def as_json(parameters: Parameters) -> str:
    """The parameters as JSON text."""
    return json.dumps(dict(parameters)) if parameters else NONE
