"""The parameters of a kernel model, read and held against what the kernel takes."""

import math
from collections.abc import Sequence

from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import BY_WIRE_NAME, DataType
from penstock_runtime.errors import InvalidArgument

KERNEL = "kernel"


class Options:
    """The parameters of one configuration; InvalidArgument for one that is not known or wrong."""

    def __init__(self, config: ModelConfig, known: Sequence[str]) -> None:
        self._config = config
        for key in config.parameters:
            if key not in (KERNEL, *known):
                raise self.refuse(f"has parameter '{key[:64]}'", " or ".join((KERNEL, *known)))

    def refuse(self, found: str, expected: str) -> InvalidArgument:
        """The error of a configuration that says something else than it should."""
        return InvalidArgument(f"model '{self._config.name}' {found}, expected {expected}")

    def text(self, key: str, default: str = "") -> str:
        """The text itself."""
        return self._config.parameter(key, default).strip()

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """An integer in these bounds; without a default it must be there."""
        said = self.text(key, "" if default is None else str(default))
        if not (said.isascii() and said.isdecimal() and low <= int(said[:12]) <= high):
            raise self.refuse(f"has {key} {said[:32]!r}", f"an integer of {low} to {high}")
        return int(said)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        said = self.text(key, str(default)).lower()
        if said not in ("true", "false"):
            raise self.refuse(f"has {key} {said[:32]!r}", "true or false")
        return said == "true"

    def numbers(self, key: str, default: str, count: int) -> tuple[float, ...]:
        """So many finite numbers, separated by commas; one stands for all."""
        said = self.text(key, default)
        try:
            found = [float(part) for part in said.split(",")]
        except ValueError:
            found = []
        found = found * count if len(found) == 1 else found
        if len(found) != count or not all(map(math.isfinite, found)):
            raise self.refuse(f"has {key} {said[:64]!r}", f"{count} numbers, as 0.5, 0.5, 0.5")
        return tuple(found)

    def datatype(self, key: str, default: DataType, allowed: Sequence[DataType]) -> DataType:
        """One of these datatypes, by its name on the wire or in a configuration."""
        said = self.text(key, default.value).removeprefix("TYPE_")
        found = BY_WIRE_NAME.get(said)
        if found not in allowed:
            names = ", ".join(one.value for one in allowed)
            raise self.refuse(f"has {key} {said[:32]!r}", f"one of {names}")
        assert found is not None
        return found
