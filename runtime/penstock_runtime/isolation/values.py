"""Requests, errors and parameters as notes say them. What is read was written by a process that is
not trusted, and is held against what it should be.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

from penstock_runtime import errors
from penstock_runtime.errors import FailureReason, PenstockError
from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.request import EMPTY, InferRequest, Parameters, RequestedOutput

LONGEST_MESSAGE = 4096
# No message is as long: nothing of a request is cut, or refused for being many.
WHOLE = 1 << 30
MOST_PARAMETERS = 1 << 16

_ERRORS: Mapping[str, type[PenstockError]] = MappingProxyType(
    {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, PenstockError)
    }
)
ItemT = TypeVar("ItemT")


def text_of(value: Any, most: int = LONGEST_MESSAGE) -> str:
    """Text that UTF-8 can carry, cut to so many characters. BrokenProtocol for anything else."""
    if not isinstance(value, str):
        raise BrokenProtocol(f"a {type(value).__name__} stands where text should")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BrokenProtocol("text holds what no text can") from None
    return value[:most]


def count_of(value: Any) -> int:
    """A whole number of 64 bits, at least 0. BrokenProtocol for anything else."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise BrokenProtocol("a number is none, or out of its range")
    return value


def list_of(value: Any, most: int) -> list[Any]:
    """A list of at most so many items. BrokenProtocol for anything else."""
    if not isinstance(value, list) or len(value) > most:
        raise BrokenProtocol(f"a list of at most {most} items is none, or longer")
    return value


# -- errors ----------------------------------------------------------------------------------------


def error_note(error: PenstockError) -> dict[str, Any]:
    """An error as a note."""
    kind = next(k.__name__ for k in type(error).__mro__ if _ERRORS.get(k.__name__) is k)
    return {
        "kind": kind,
        "message": error.message[:LONGEST_MESSAGE],
        "reason": error.reason,
        "retry": error.retry_after_ns,
        "failure": error.failure.value,
        "scheduled": error.scheduled,
    }


def error_of(note: Any) -> PenstockError:
    """The error of a note."""
    if not isinstance(note, dict):
        raise BrokenProtocol("an error is no object")
    kind = _ERRORS.get(text_of(note.get("kind")))
    if kind is None:
        raise BrokenProtocol("an error is of a kind that there is not")
    retry = note.get("retry")
    if retry is not None and (type(retry) is not int or abs(retry) >= 1 << 62):
        raise BrokenProtocol("the hint of an error is no number")
    return kind(
        text_of(note.get("message")),
        reason=text_of(note.get("reason"), 128),
        retry_after_ns=retry,
        failure=_member(FailureReason, note.get("failure")),
        scheduled=bool(note.get("scheduled")),
    )


EnumT = TypeVar("EnumT", bound=Enum)


def _member(kind: type[EnumT], value: Any) -> EnumT:
    found = next((member for member in kind if member.value == value), None)
    if found is None:
        raise BrokenProtocol(f"{kind.__name__} has a value that it has not")
    return found


# -- requests and parameters -----------------------------------------------------------------------


def parameters_note(parameters: Parameters) -> dict[str, Any]:
    """Parameters as a note."""
    return dict(parameters)


def parameters_of(note: Any) -> dict[str, bool | int | float | str]:
    """The parameters of a note."""
    if note is None:
        return {}
    if not isinstance(note, dict) or len(note) > MOST_PARAMETERS:
        raise BrokenProtocol("parameters are no object, or too many")
    found: dict[str, bool | int | float | str] = {}
    for name, value in note.items():
        if isinstance(value, str):
            found[text_of(name, WHOLE)] = text_of(value, WHOLE)
        elif isinstance(value, bool | float) or (type(value) is int and abs(value) < 1 << 64):
            found[text_of(name, WHOLE)] = value
        else:
            raise BrokenProtocol("a parameter is no bool, number or text")
    return found


def request_note(request: InferRequest) -> dict[str, Any]:
    """A request without its tensors as a note; what says nothing is left out."""
    known = {
        "version": request.model_version,
        "id": request.id,
        "outputs": [output.name for output in request.outputs],
        "parameters": parameters_note(request.parameters),
        "headers": dict(request.headers),
        "deadline": request.deadline_ns,
        "priority": request.priority,
        "timeout": request.timeout_us,
        "correlation": request.correlation_id,
        "start": request.sequence_start,
        "end": request.sequence_end,
        "depth": request.depth,
        "single": request.single,
    }
    return {"model": request.model_name, **{key: value for key, value in known.items() if value}}


def request_of(note: Any) -> InferRequest:
    """The request of a note, without tensors."""
    if not isinstance(note, dict):
        raise BrokenProtocol("a request is no object")
    outputs = list_of(note.get("outputs", []), MOST_PARAMETERS)
    headers = note.get("headers", {})
    deadline = note.get("deadline")
    correlation = note.get("correlation", 0)
    return InferRequest(
        text_of(note.get("model"), WHOLE),
        (),
        text_of(note.get("version", ""), 64),
        text_of(note.get("id", ""), WHOLE),
        tuple(RequestedOutput(text_of(name, WHOLE)) for name in outputs),
        parameters_of(note["parameters"]) if "parameters" in note else EMPTY,
        {name: text_of(value, WHOLE) for name, value in parameters_of(headers).items()},
        None if deadline is None else count_of(deadline),
        count_of(note.get("priority", 0)),
        count_of(note.get("timeout", 0)),
        text_of(correlation, WHOLE) if isinstance(correlation, str) else count_of(correlation),
        bool(note.get("start")),
        bool(note.get("end")),
        depth=count_of(note.get("depth", 0)),
        single=bool(note.get("single")),
    )
