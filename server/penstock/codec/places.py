"""Tensors that lie in memory shared with the client: what a request says of where, and what a
response says of outputs that were written there.
"""

from collections.abc import Mapping
from typing import Any, NoReturn

from penstock.codec.parameters import write_parameters
from penstock.codec.tensor_writer import Slot, entry, slot
from penstock.codec.wire import shown
from penstock_protos.inference import InferParameter
from penstock_runtime.errors import InvalidArgument, Unsupported, Violation
from penstock_runtime.memory.places import BYTE_SIZE, OFFSET, REGION, Place
from penstock_runtime.memory.shared import MAX_NAME
from penstock_runtime.tensor import Tensor

DISABLED = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)
_KINDS = {REGION: "string_param", BYTE_SIZE: "int64_param", OFFSET: "int64_param"}
_PARAMETERS = b"\x22"


def refuse_places() -> NoReturn:
    """Refuse the use of shared memory, which this server does not allow."""
    raise Unsupported(DISABLED)


def read_place(said: Mapping[str, InferParameter], kind: str, name: str) -> Place | None:
    """Where a tensor lies by its parameters; None: in the message. `kind` is input or output.

    InvalidArgument when a parameter is of the wrong type, or there without the others it needs.
    """
    found = {key: _value(key, said[key], kind, name) for key in _KINDS if key in said}
    if not found:
        return None
    if REGION not in found:
        key = next(iter(found))
        _refuse(f"'{key}' can not be specified without '{REGION}' parameter", kind, name)
    if BYTE_SIZE not in found:
        _refuse(f"'{BYTE_SIZE}' must be specified along with '{REGION}' parameter", kind, name)
    region = found[REGION]
    if len(region) > MAX_NAME:
        text = f"'{REGION}' has {len(region)} characters, expected at most {MAX_NAME}"
        _refuse(text, kind, name)
    return Place(region, found[BYTE_SIZE], found.get(OFFSET, 0))


def _value(key: str, parameter: InferParameter, kind: str, name: str) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    if choice != _KINDS[key]:
        text = f"invalid value type for '{key}' parameter, expected {_KINDS[key]}."
        raise InvalidArgument(text, violations=(Violation(f"{kind}s[{shown(name)}]", text),))
    return getattr(parameter, _KINDS[key])


def _refuse(text: str, kind: str, name: str) -> NoReturn:
    where = f"{kind}s[{shown(name)}]"
    text = f"{text} for {kind} tensor '{shown(name)}'"
    raise InvalidArgument(text, violations=(Violation(where, text),))


def placed_entry(tensor: Tensor) -> bytes:
    """The field that describes a tensor, with its place if it has one."""
    if type(tensor.array) is not Place:
        return entry(tensor)
    return entry(tensor, parameters=write_parameters(_PARAMETERS, tensor.array.parameters))


def in_message(tensor: Tensor) -> Tensor:
    """What there is of the tensor in the message: nothing of one that has a place."""
    return tensor._replace(array=b"") if type(tensor.array) is Place else tensor


def placed_slot(tensor: Tensor, raw_tag: bytes) -> Slot:
    """The slot of a tensor of a response, where even one that lies elsewhere has an entry."""
    if type(tensor.array) is Place:
        return Slot(raw_tag + b"\x00", 0, tensor.datatype.numpy)
    return slot(tensor, raw_tag)
