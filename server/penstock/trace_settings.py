"""What is traced: what Triton's TraceSetting reads and changes, for all models and for single ones.

Frozen; it knows nothing of who traces or who asks. What a model has of its own stays under its name
while the model comes and goes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from penstock_runtime.errors import InvalidArgument, ResourceExhausted, Unsupported, Violation
from penstock_runtime.observability.trace_level import Level

TRACE_FILE_FIXED = "trace file location can not be updated through network protocol"
TRITON, OPENTELEMETRY = "triton", "opentelemetry"
MODES = (TRITON, OPENTELEMETRY)
MOST_MODELS = 1024
MOST_RATE, MOST_COUNT = 2**32 - 1, 2**31 - 1
_SHOWN = 128

Given = Mapping[str, Sequence[str]]
"""Texts by the name of their setting; none at all takes back what was said before."""


@dataclass(frozen=True, slots=True)
class TraceValues:
    """The settings in force for one model, or for all that have none of their own."""

    level: Level = Level.OFF
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0
    mode: str = TRITON

    def texts(self) -> dict[str, tuple[str, ...]]:
        """As the protocol tells them."""
        levels = tuple(level.name or "" for level in self.level) or ("OFF",)
        return {
            "trace_level": levels,
            "trace_rate": (str(self.rate),),
            "trace_count": (str(self.count),),
            "log_frequency": (str(self.log_frequency),),
            "trace_mode": (self.mode,),
        }


def _level(texts: Sequence[str]) -> Level:
    level = Level.OFF
    for text in texts:
        if text not in Level.__members__:
            raise ValueError("expected OFF, or TIMESTAMPS, TENSORS or both")
        level |= Level[text]
    if "OFF" in texts and len(texts) > 1:
        raise ValueError("expected OFF alone")
    return level


def _number(lowest: int, highest: int) -> Callable[[Sequence[str]], int]:
    def read(texts: Sequence[str]) -> int:
        text = _one(texts)
        # Not `int` alone, which takes blanks and underscores.
        if text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= len(str(highest)):
            value = int(text)
            if lowest <= value <= highest:
                return value
        raise ValueError(f"expected a whole number from {lowest} to {highest}")

    return read


def _mode(texts: Sequence[str]) -> str:
    if _one(texts) not in MODES:
        raise ValueError(f"expected one of {', '.join(MODES)}")
    return texts[0]


def _one(texts: Sequence[str]) -> str:
    if len(texts) != 1:
        raise ValueError("expected one value")
    return texts[0]


_FIELDS: Mapping[str, tuple[str, Callable[[Sequence[str]], Any]]] = MappingProxyType(
    {
        "trace_level": ("level", _level),
        "trace_rate": ("rate", _number(1, MOST_RATE)),
        "trace_count": ("count", _number(-1, MOST_COUNT)),
        "log_frequency": ("log_frequency", _number(0, MOST_RATE)),
        "trace_mode": ("mode", _mode),
    }
)
NAMES = tuple(_FIELDS)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def read_setting(name: str, texts: Sequence[str]) -> tuple[str, Any]:
    """The field of TraceValues and its value; InvalidArgument says what is wrong."""
    known = _FIELDS.get(name)
    if known is None:
        raise _wrong(name, f"unknown, expected one of {', '.join(NAMES)}")
    try:
        return known[0], known[1](texts)
    except ValueError as error:
        got = ", ".join(texts)[:_SHOWN]
        raise _wrong(name, f"{error}, got {got!r}") from None


def _wrong(name: str, what: str) -> InvalidArgument:
    told = name[:_SHOWN]
    return InvalidArgument(f"trace setting {told!r}: {what}", violations=(Violation(told, what),))


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What the server was started with, what was changed for all models, and for single ones."""

    start: TraceValues = field(default_factory=TraceValues)
    everywhere: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)

    def in_force(self, model: str = "") -> TraceValues:
        """The settings of this model; "" for those of all that have none of their own."""
        return replace(self.start, **{**self.everywhere, **self.models.get(model, _NOTHING)})

    def changed(
        self, given: Given, model: str = "", modes: Sequence[str] = MODES
    ) -> "TraceSettings":
        """These with some changed, for one model or ("") for all, or an error and nothing changed.

        Unsupported for the file, which nobody moves from outside; InvalidArgument for a name that
        is none, a value that is none, and a mode that the server is not prepared for.
        """
        if "trace_file" in given:
            raise Unsupported(TRACE_FILE_FIXED, reason="TRACE_FILE")
        said = dict(self.models.get(model, _NOTHING) if model else self.everywhere)
        for name, texts in given.items():
            if name in _FIELDS and not texts:
                said.pop(_FIELDS[name][0], None)
                continue
            place, value = read_setting(name, texts)
            if place == "mode" and value not in modes:
                raise _wrong(
                    name, f"the server was not started for it (--trace-config={value},...)"
                )
            said[place] = value
        return (
            replace(self, models=self._with(model, said))
            if model
            else replace(self, everywhere=said)
        )

    def _with(self, model: str, said: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        rest = {name: values for name, values in self.models.items() if name != model}
        if not said:
            return rest
        if len(rest) >= MOST_MODELS:
            raise ResourceExhausted(
                f"{MOST_MODELS} models have trace settings of their own already; clear those of one"
            )
        return {**rest, model: said}
