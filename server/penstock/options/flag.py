"""How an option is declared: its default, and what there is to know of it beside that."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FlagInfo:
    """What there is to know of an option beside its default."""

    group: str
    help: str
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str = ""
    separator: str = ","
    """Between the values of a repeated option in its environment variable."""


def option(default: Any, group: str, text: str, secret: bool = False, **more: Any) -> Any:
    """The field of an option; a secret is not shown."""
    info = FlagInfo(group, text, **more)
    return field(default=default, repr=not secret, metadata={"flag": info})


def port(default: int, group: str, text: str) -> Any:
    """The field of a port; 0 is any free one."""
    return option(default, group, text, minimum=0, maximum=65535, metavar="PORT")
