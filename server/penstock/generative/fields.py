"""The fields of a JSON object, read one by one; what is null counts as not given."""

from collections.abc import Mapping
from typing import Any, NoReturn

from penstock.codec.wire import shown
from penstock.rest.documents import expect_text, kind_of
from penstock_runtime.errors import InvalidArgument, Violation

MAX_TOKEN = (1 << 63) - 1


def refuse(field: str, problem: str) -> NoReturn:
    """InvalidArgument that names the field."""
    text = f"'{field}' {problem}"
    raise InvalidArgument(text, violations=(Violation(field, text),))


class Fields:
    """One object; `where` is its name, if it is a field itself."""

    def __init__(self, document: Mapping[str, Any], where: str = "") -> None:
        self.document = document
        self._where = where

    def get(self, name: str) -> Any:
        """The value as it is; None if there is none."""
        return self.document.get(name)

    def name(self, name: str) -> str:
        """What an error calls a field of this object."""
        return f"{self._where}.{shown(name)}" if self._where else shown(name)

    def refuse(self, name: str, problem: str) -> NoReturn:
        """InvalidArgument that names the field."""
        refuse(self.name(name), problem)

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.get(name)
        return default if value is None else expect_text(value, f"'{self.name(name)}'")

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, value, "a boolean")
        return default if value is None else value

    def whole(self, name: str, least: int, most: int, default: int | None = None) -> int | None:
        """An integer within bounds."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) is not int:
            self._wrong(name, value, f"an integer from {least} to {most}")
        if not least <= value <= most:
            self.refuse(name, f"is {str(value)[:32]}, expected an integer from {least} to {most}")
        return value

    def within(self, name: str) -> "Fields":
        """An object; an empty one if it is not given."""
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            self._wrong(name, value, "an object")
        return Fields(value or {}, self.name(name))

    def items(self, name: str) -> list[Any]:
        """An array; an empty one if it is not given."""
        value = self.get(name)
        if value is not None and not isinstance(value, list):
            self._wrong(name, value, "an array")
        return value or []

    def texts(self, name: str) -> list[str]:
        """A string, or an array of them."""
        value = self.get(name)
        values = [value] if isinstance(value, str) else self.items(name)
        return [expect_text(each, f"'{self.name(name)}[{i}]'") for i, each in enumerate(values)]

    def objects(self, name: str) -> list["Fields"]:
        """An array of objects."""
        found = []
        for index, value in enumerate(self.items(name)):
            if not isinstance(value, dict):
                self._wrong(f"{name}[{index}]", value, "an object")
            found.append(Fields(value, f"{self.name(name)}[{index}]"))
        return found

    def _wrong(self, name: str, value: Any, expected: str) -> NoReturn:
        self.refuse(name, f"is {kind_of(value)}, expected {expected}")


def token_ids(values: list[Any], field: str) -> list[int]:
    """Ids of tokens; whether the vocabulary has them is for the model to say."""
    for value in values:
        if type(value) is not int:
            refuse(field, f"holds {kind_of(value)} among token ids, expected integers")
        if not 0 <= value <= MAX_TOKEN:
            refuse(field, f"holds the token id {str(value)[:32]}, expected 0 to {MAX_TOKEN}")
    return values
