"""Records of calls as notes between a process and its server. What is read is held against what it
should be; whose calls they are says the server.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from penstock_runtime.isolation.frames import BrokenProtocol
from penstock_runtime.isolation.values import count_of, text_of
from penstock_runtime.llm.calls import CallRecord

MOST_PARAMETERS = 64
# The last day of year 9998: what comes later is no date, here or elsewhere.
_LAST_NS = 253_370_000_000 * 1_000_000_000
_CONTENT = ("prompt", "answer")


def record_note(record: CallRecord, content: bool) -> dict[str, Any]:
    """A record as a note, with its texts or without; what says nothing is left out."""
    known = {name: getattr(record, name) for name in _READ if content or name not in _CONTENT}
    said = {name: value for name, value in known.items() if value is not None and value != ""}
    return {**said, "parameters": {k: _simple(v) for k, v in record.parameters.items()}}


def record_of(note: Any, model: str, version: str, content: bool) -> CallRecord:
    """The record of a note: a call of this model, with its texts only if they are wanted."""
    if not isinstance(note, dict) or "time_ns" not in note or not note.keys() <= _READ.keys():
        raise BrokenProtocol("the record of a call is none")
    said = {name: _READ[name](value) for name, value in note.items()}
    for name in () if content else _CONTENT:
        said.pop(name, None)
    return CallRecord(model=model, version=version, **said)


def _time(value: Any) -> int:
    if count_of(value) > _LAST_NS:
        raise BrokenProtocol("the time of a call is no date")
    return count_of(value)


def _text(value: Any) -> str:
    # Whatever a caller may have sent: the log knows how to write what UTF-8 cannot carry.
    if not isinstance(value, str):
        raise BrokenProtocol(f"a {type(value).__name__} stands where text should")
    return value


def _status(value: Any) -> str:
    return text_of(value, 64)


def _ms(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BrokenProtocol("a time of a call is no number")
    return float(value)


def _parameters(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or len(value) > MOST_PARAMETERS:
        raise BrokenProtocol("the parameters of a call are none, or too many")
    for item in value.values():
        if not all(map(_is_plain, item if isinstance(item, list) else (item,))):
            raise BrokenProtocol("a parameter of a call is no text, number or list of those")
    return value


def _simple(value: Any) -> Any:
    items = value if isinstance(value, list | tuple) else (value,)
    return value if all(map(_is_plain, items)) else str(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


_READ: Mapping[str, Callable[[Any], Any]] = {
    "time_ns": _time,
    "id": _text,
    "tenant": _text,
    "prompt_tokens": count_of,
    "output_tokens": count_of,
    "cached_tokens": count_of,
    "finish_reason": _text,
    "status": _status,
    "error": _text,
    "ttft_ms": _ms,
    "itl_mean_ms": _ms,
    "queue_ms": _ms,
    "total_ms": _ms,
    "parameters": _parameters,
    "prompt": _text,
    "answer": _text,
}
