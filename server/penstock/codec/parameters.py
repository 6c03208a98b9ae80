"""Parameters of requests, responses and tensors: read with their types checked, written by hand.

Of a request's parameters the scheduling ones (sequence, priority, timeout) become fields of the
request. `triton_enable_empty_final_response`, the only reserved key that a caller may set, stays
among the custom parameters, where the server and the model can see it.
"""

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from penstock.codec.wire import shown, sized, varint
from penstock_protos.inference import InferParameter, ModelInferRequest
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.request import CLASSIFICATION, EMPTY, Parameter, Parameters

EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
FINAL_RESPONSE = "triton_final_response"
RESERVED_PREFIX = "triton_"
ALLOWED_RESERVED = (EMPTY_FINAL_RESPONSE,)

_CUSTOM = ("bool_param", "int64_param", "string_param", "double_param")
_EXPECTED = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    EMPTY_FINAL_RESPONSE: ("bool_param",),
    CLASSIFICATION: ("int64_param",),
}
_INT64_MAX = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
# Nanoseconds of a longer timeout would not fit the 64 bits that other servers and metrics use.
_MAX_TIMEOUT_US = _INT64_MAX // 1000
_DOUBLE = struct.Struct("<d")


class RequestOptions(NamedTuple):
    """What a request's parameters say; fields as in InferRequest."""

    parameters: Parameters = EMPTY
    priority: int = 0
    timeout_us: int = 0
    correlation_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False


NO_OPTIONS = RequestOptions()


def read_options(entries: bytes) -> RequestOptions:
    """The options in the parameter entries of a serialized request."""
    try:
        found = ModelInferRequest.FromString(entries).parameters
    except DecodeError:
        raise InvalidArgument(
            "the request's parameters are malformed, or a text in them is not UTF-8"
        ) from None
    scheduling: dict[str, Any] = {}
    custom: dict[str, Parameter] = {}
    for key in sorted(found):
        _check_reserved(key)
        value = _read(key, found[key])
        if key in _EXPECTED and key not in ALLOWED_RESERVED and key != CLASSIFICATION:
            scheduling[key] = value
        else:
            custom[key] = value
    parameters = MappingProxyType(custom) if custom else EMPTY
    return _options(parameters, scheduling) if scheduling else RequestOptions(parameters)


def _options(parameters: Parameters, scheduling: Mapping[str, Any]) -> RequestOptions:
    return RequestOptions(
        parameters,
        priority=_bounded("priority", scheduling.get("priority", 0), _INT64_MAX),
        timeout_us=_bounded("timeout", scheduling.get("timeout", 0), _MAX_TIMEOUT_US),
        correlation_id=_correlation_id(scheduling.get("sequence_id", 0)),
        sequence_start=scheduling.get("sequence_start", False),
        sequence_end=scheduling.get("sequence_end", False),
    )


def _bounded(key: str, value: int, most: int) -> int:
    if value < 0:
        raise InvalidArgument(f"invalid value for '{key}', expected value >= 0.")
    if value > most:
        raise InvalidArgument(f"invalid value for '{key}', expected value <= {most}.")
    return value


def _correlation_id(value: int | str) -> int | str:
    """An unsigned id, as sequence models expect it: clients send its 64 bits as an int64."""
    return value & _UINT64 if isinstance(value, int) else value


def _check_reserved(key: str) -> None:
    if key.startswith(RESERVED_PREFIX) and key not in ALLOWED_RESERVED:
        raise InvalidArgument(
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
            f"following keys starting with 'triton_' are allowed: {' '.join(ALLOWED_RESERVED)}"
        )


def _read(key: str, value: InferParameter) -> Any:
    """The value of a parameter whose type suits its key."""
    choice = value.WhichOneof("parameter_choice")
    expected = _EXPECTED.get(key, _CUSTOM)
    if choice not in expected:
        raise InvalidArgument(
            f"invalid value type for '{shown(key)}' parameter, expected {_either(expected)}."
        )
    return getattr(value, choice)


def _either(names: tuple[str, ...]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def read_output_parameters(found: Mapping[str, InferParameter]) -> Parameters:
    """Parameters of a requested output; `classification` must be an integer of 1 or more."""
    if not found:
        return EMPTY
    parameters = {key: _read(key, found[key]) for key in sorted(found)}
    classes = parameters.get(CLASSIFICATION, 1)
    if classes < 1:
        raise InvalidArgument(
            f"invalid value for '{CLASSIFICATION}' parameter, expected value > 0, got {classes}."
        )
    return MappingProxyType(parameters)


def read_any(found: Mapping[str, InferParameter]) -> Parameters:
    """Parameters of a response, whatever their types; one without a value is left out."""
    if not found:
        return EMPTY
    values: dict[str, Parameter] = {}
    for key in found:
        choice = found[key].WhichOneof("parameter_choice")
        if choice is not None:
            values[key] = getattr(found[key], choice)
    return MappingProxyType(values)


def with_forwarded(parameters: Parameters, headers: Mapping[str, str]) -> Parameters:
    """The request's parameters and the headers that are forwarded to the model as such."""
    for name in headers:
        if name.lower().startswith(RESERVED_PREFIX):
            raise InvalidArgument(
                f"Header '{shown(name)}' is reserved for Triton usage and cannot be forwarded."
            )
    return MappingProxyType({**parameters, **headers})


# -- writing -------------------------------------------------------------------------------------


def write_parameters(tag: bytes, parameters: Parameters) -> bytes:
    """One map entry per parameter, each with this tag."""
    return b"".join(_entry(tag, key, value) for key, value in parameters.items())


def _entry(tag: bytes, key: str, value: Parameter) -> bytes:
    name = sized(b"\x0a", key.encode(errors="replace"))
    return sized(tag, name + sized(b"\x12", _choice(key, value)))


def _choice(key: str, value: Any) -> bytes:
    """An InferParameter. numpy's scalars count as the Python numbers that they stand for."""
    if isinstance(value, bool | np.bool_):
        return b"\x08\x01" if value else b"\x08\x00"
    if isinstance(value, int | np.integer):
        return _integer(key, int(value))
    if isinstance(value, float | np.floating):
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, str):
        return sized(b"\x1a", value.encode(errors="replace"))
    raise Internal(
        f"parameter '{shown(key)}' is a {type(value).__name__}, expected bool, int, float or str"
    )


def _integer(key: str, value: int) -> bytes:
    if value < -_INT64_MAX - 1 or value > _UINT64:
        raise Internal(f"parameter '{shown(key)}' has the value {value}, expected 64 bits")
    return (b"\x28" if value > _INT64_MAX else b"\x10") + varint(value)
