"""The kinds of value in a configuration: each reads protobuf's JSON form strictly, and writes it.

A kind knows no field and no message. What does not fit raises a Misfit, which learns its path on
the way up, so that reading what is right never builds one.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from penstock_runtime.datatype import BY_CONFIG_NAME, BY_WIRE_NAME, DataType

SHOWN_LENGTH = 40
FLOAT32_MAX = 3.4028234663852886e38

_DECIMAL = re.compile(r"-?[0-9]{1,20}")
_NUMBER = re.compile(r"-?(?:[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?|Infinity)|NaN")
_DATATYPES = tuple(DataType)


class Misfit(Exception):
    """A value that is not of its kind; `faults` are pairs of a path and what was expected there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults = [("", text)]

    def inside(self, step: str) -> "Misfit":
        """The same, one step further out; a step is a field's name or an index in brackets."""
        self.faults = [(_join(step, path), text) for path, text in self.faults]
        return self


def _join(step: str, path: str) -> str:
    return f"{step}.{path}" if path and not path.startswith("[") else step + path


def shown(value: object) -> str:
    """A value as an error shows it: short, whatever it is."""
    if isinstance(value, str):
        dots = "..." if len(value) > SHOWN_LENGTH else ""
        return json.dumps(value[:SHOWN_LENGTH]) + dots
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a very large integer"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


class Kind(Protocol):
    """A kind of value; `zero` is what protobuf does not write, and takes for absent."""

    @property
    def zero(self) -> object:
        """The value of a field that is not set."""

    def read(self, value: object) -> object:
        """The value behind its JSON form; Misfit if it is none."""

    def write(self, value: object, full: bool) -> object:
        """The JSON form of a value; `full` writes fields that are not set as well."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text that UTF-8 can carry."""

    zero: str = ""

    def read(self, value: object) -> object:
        """The text itself."""
        if not isinstance(value, str):
            raise Misfit(f"expected a string, got {shown(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Misfit(f"expected text of Unicode characters, got {shown(value)}") from None
        return value

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """The text itself."""
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false, and nothing that looks like it."""

    zero: bool = False

    def read(self, value: object) -> object:
        """The flag itself."""
        if not isinstance(value, bool):
            raise Misfit(f"expected true or false, got {shown(value)}")
        return value

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """The flag itself."""
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from `low` to `high`, as a number or as decimal text."""

    low: int
    high: int
    zero: int = 0

    def read(self, value: object) -> object:
        """The integer; JSON of protobuf gives those of 64 bits as text."""
        number = _integer(value)
        if number is None:
            raise Misfit(f"expected an integer, got {shown(value)}")
        if not self.low <= number <= self.high:
            raise Misfit(f"expected an integer of {self.low}..{self.high}, got {shown(number)}")
        return number

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """A number, of 64 bits too: every reader of protobuf's JSON takes it."""
        return value


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None


@dataclass(frozen=True, slots=True)
class Real:
    """A floating point number up to `high`; infinities and NaN are text in protobuf's JSON."""

    high: float = math.inf
    zero: float = 0.0

    def read(self, value: object) -> object:
        """The number; an integer or decimal text is one too."""
        number = _real(value)
        if number is None:
            raise Misfit(f"expected a number, got {shown(value)}")
        if math.isfinite(number) and abs(number) > self.high:
            raise Misfit(f"expected a number of 32 bits, got {shown(number)}")
        return number

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """A number where JSON has one, else Infinity, -Infinity or NaN as text."""
        number = float(value) if isinstance(value, int | float) else math.nan
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else f"{'-' if number < 0 else ''}Infinity"


def _real(value: object) -> float | None:
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    # No larger integer is a finite float; converting it would raise.
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 1023:
        return float(value)
    return None


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One of `names`, by name or by number; the last of them have numbers of their own."""

    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    @property
    def zero(self) -> str:
        """Number 0."""
        return self.names[0]

    def read(self, value: object) -> object:
        """The name."""
        number = _integer(value)
        counted = len(self.names) - len(self.numbers)
        if number is not None and 0 <= number < counted:
            return self.names[number]
        if number in self.numbers:
            return self.names[counted + self.numbers.index(number)]
        if value not in self.names:
            raise Misfit(f"expected one of {', '.join(self.names)}, got {shown(value)}")
        return value

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """The name."""
        return value


@dataclass(frozen=True, slots=True)
class Datatype:
    """A datatype by its TYPE_ name or its number; TYPE_INVALID is none."""

    zero: None = None

    def read(self, value: object) -> object:
        """The datatype, or None."""
        number = _integer(value)
        if number == 0 or value == "TYPE_INVALID":
            return None
        if number is not None and 0 < number <= len(_DATATYPES):
            return _DATATYPES[number - 1]
        found = BY_CONFIG_NAME.get(value) if isinstance(value, str) else None
        if found is None:
            raise Misfit(_unknown_datatype(value))
        return found

    def write(self, value: object, full: bool) -> object:  # noqa: ARG002
        """The TYPE_ name."""
        return value.config_name if isinstance(value, DataType) else "TYPE_INVALID"


def _unknown_datatype(value: object) -> str:
    wire = BY_WIRE_NAME.get(value.upper()) if isinstance(value, str) else None
    hint = f", did you mean {wire.config_name}?" if wire else ""
    return f"expected one of {', '.join(BY_CONFIG_NAME)}, got {shown(value)}{hint}"


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, as a tuple."""

    item: Kind
    zero: tuple[object, ...] = ()

    def read(self, value: object) -> object:
        """A tuple of what the items are."""
        if not isinstance(value, list | tuple):
            raise Misfit(f"expected a list, got {shown(value)}")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(self.item.read(item))
            except Misfit as misfit:
                raise misfit.inside(f"[{index}]") from None
        return tuple(items)

    def write(self, value: object, full: bool) -> object:
        """A list of what the items are."""
        items = value if isinstance(value, list | tuple) else ()
        return [self.item.write(item, full) for item in items]


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map; its keys are text in JSON, whatever they are."""

    key: Kind
    item: Kind
    zero: Mapping[object, object] = field(default_factory=lambda: MappingProxyType({}))

    def read(self, value: object) -> object:
        """A read-only map of what the keys and items are."""
        if not isinstance(value, Mapping):
            raise Misfit(f"expected an object, got {shown(value)}")
        items: dict[object, object] = {}
        for name, item in value.items():
            try:
                key = self.key.read(name)
                if key in items:
                    raise Misfit("given twice")
                items[key] = self.item.read(item)
            except Misfit as misfit:
                raise misfit.inside(f"[{shown(name)}]") from None
        return MappingProxyType(items)

    def write(self, value: object, full: bool) -> object:
        """A dictionary of what the keys and items are."""
        items = value if isinstance(value, Mapping) else {}
        return {str(key): self.item.write(item, full) for key, item in items.items()}
