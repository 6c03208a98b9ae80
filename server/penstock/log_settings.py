"""What is written to the log and in which form: what Triton's LogSettings reads and changes.

It knows levels and names, and nothing of who writes or who asks.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from penstock.config import FLAGS, ServerOptions
from penstock_runtime.errors import InvalidArgument, Unsupported, Violation

LOG_FILE_FIXED = "log file location can not be updated through network protocol"
FORMATS = next(flag.info.choices for flag in FLAGS if flag.field == "log_format")
MAX_NAME = 128
SILENT = logging.CRITICAL

Setting = bool | int | str


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The settings in force; the names are those of the protocol."""

    log_file: str = ""
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: int = 0
    log_format: str = FORMATS[0]

    @classmethod
    def of(cls, options: ServerOptions) -> Self:
        """Those that a server starts with."""
        return cls(
            log_file=options.log_file,
            log_info=options.log_info,
            log_warning=options.log_warning,
            log_error=options.log_error,
            log_verbose_level=options.log_verbose,
            log_format=options.log_format,
        )

    @property
    def level(self) -> int:
        """The lowest level of which anything is written."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return next((level for level in levels if self.wants(level)), SILENT)

    def wants(self, level: int) -> bool:
        """Whether a record of this level is written; each switch is for its own level only."""
        if level >= SILENT:
            return True
        if level >= logging.ERROR:
            return self.log_error
        if level >= logging.WARNING:
            return self.log_warning
        return self.log_info if level >= logging.INFO else self.log_verbose_level > 0

    @property
    def is_json(self) -> bool:
        """Whether lines are objects; the other formats are one, with times in ISO 8601."""
        return self.log_format == "json"

    def changed(self, wanted: Mapping[str, Setting | None]) -> "LogSettings":
        """These with some changed, or an error and nothing changed.

        Unsupported for the log file, which nobody moves from outside; InvalidArgument for a name
        that is none, a value of another type (None: no value) or a format that is none.
        """
        if "log_file" in wanted:
            raise Unsupported(LOG_FILE_FIXED, reason="LOG_FILE")
        for name, value in wanted.items():
            _check(name, value)
        return replace(self, **wanted)  # type: ignore[arg-type]


_TYPES: Mapping[str, type[Setting]] = MappingProxyType(
    {
        "log_info": bool,
        "log_warning": bool,
        "log_error": bool,
        "log_verbose_level": int,
        "log_format": str,
    }
)


def _check(name: str, value: Setting | None) -> None:
    expected = _TYPES.get(name)
    if expected is None:
        raise _wrong(name, f"unknown, expected one of {', '.join(_TYPES)}")
    # Not `isinstance`: true is an int to Python, and none to the protocol.
    if type(value) is not expected:
        got = "no value" if value is None else type(value).__name__
        raise _wrong(name, f"expected a value of type {expected.__name__}, got {got}")
    if name == "log_format" and value not in FORMATS:
        raise _wrong(name, f"expected one of {', '.join(FORMATS)}, got {str(value)[:MAX_NAME]!r}")


def _wrong(name: str, what: str) -> InvalidArgument:
    told = name[:MAX_NAME]
    return InvalidArgument(f"log setting {told!r}: {what}", violations=(Violation(told, what),))
