"""Logs as JSON or for humans, one line per event, written by a thread of their own.

Whoever logs hands over a line and goes on: a pipe that no one reads or a disk that is full costs
lines, which are counted, and never an inference.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from penstock.config import ServerOptions
from penstock.log_settings import LogSettings
from penstock.log_writer import LogWriter, Style, in_pieces, open_file, to_descriptor
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.access_log import AccessLog, human_line, json_line
from penstock_runtime.observability.log_text import one_line, timestamp
from penstock_runtime.observability.metrics import Family, Sample

LogFormat = Literal["human", "json"]
LEVELS = ("debug", "info", "warning", "error", "critical")
OWN_LOGGERS = ("penstock", "penstock_runtime", "penstock_kernels")
MESSAGE_LIMIT = 16_384
STDERR = 2

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"asctime", "message", "taskName"}


class HumanFormatter(logging.Formatter):
    """`time LEVEL logger: message name=value`, then the traceback, all on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        trace = _trace(self, record)
        text = record.getMessage() + extra + (f" | {trace}" if trace else "")
        head = f"{timestamp(_wall_ns(record))} {record.levelname} {record.name}: "
        return one_line(head + text, MESSAGE_LIMIT)


class JsonFormatter(logging.Formatter):
    """One JSON object per record; what was passed as `extra` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        said: dict[str, object] = {
            "time": timestamp(_wall_ns(record)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:MESSAGE_LIMIT],
        }
        trace = _trace(self, record)
        if trace:
            said["exception"] = trace[-MESSAGE_LIMIT:]
        said |= {name: value for name, value in _extra(record).items() if name not in said}
        return json.dumps(said).replace("\x7f", "\\u007f")


class LineHandler(logging.Handler):
    """Formats in the thread that logs (arguments may change later) and hands the line over.

    `wants` is asked of every level: loggers know only the lowest that is written.
    """

    def __init__(self, put: Callable[[str], object]) -> None:
        super().__init__()
        self._put = put
        self.wants: Callable[[int], bool] = lambda _level: True

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over the record's line; one that cannot be formatted says where it is from."""
        if not self.wants(record.levelno):
            return
        try:
            line = self.format(record)
        except Exception as error:
            where = f"{record.pathname}:{record.lineno}"
            what = f"a log record of {where} cannot be formatted: {type(error).__name__}"
            line = self.format(logging.makeLogRecord({"msg": what, "levelname": "ERROR"}))
        self._put(line)


@dataclass(slots=True)
class Logs:
    """What `configure` set up; `close` takes it back and writes what is still waiting."""

    access: AccessLog
    writer: LogWriter
    handler: LineHandler
    previous: Mapping[str, int]
    process: int | None = None
    settings: LogSettings = field(default_factory=LogSettings)
    """What `change` was last told."""

    def change(self, settings: LogSettings) -> None:
        """Write from now on what these say, and as they say; the access log has its own switch."""
        formatter, style = _style(settings.is_json, self.process)
        # A record is either written by the one style or by the other.
        with self.handler.lock or nullcontext():
            self.handler.wants = settings.wants
            self.handler.setFormatter(formatter)
            self.writer.restyle(style)
        _set_levels(settings.level)
        self.settings = settings

    def families(self) -> list[Family]:
        """How many lines were lost."""
        return [
            Family(
                "penstock_log_dropped_lines_total",
                "counter",
                "Log lines lost because they could not be written in time",
                (Sample(self.writer.dropped),),
            )
        ]

    def close(self, timeout_s: float = 1.0) -> bool:
        """Detach from logging and write what waits; False if that could not be done in time."""
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self.handler)
        for name, level in self.previous.items():
            logging.getLogger(name).setLevel(level)
        return self.writer.close(timeout_s)


def configure(
    log_format: LogFormat = "human",
    level: str = "info",
    *,
    file: str = "",
    write: Callable[[bytes], object] | None = None,
    access: bool = True,
    access_every: int = 1,
    process: int | None = None,
) -> Logs:
    """Send every log of the process, and the access log, to a file or (without one) to stderr.

    `write` replaces both. `level` is for penstock's own loggers; others speak from info upwards.
    `process` is told in every line: the number of one that shares the log with others.
    """
    if log_format not in ("human", "json"):
        raise InvalidArgument(f"log format {log_format!r} is unknown: expected human or json")
    if level.lower() not in LEVELS:
        raise InvalidArgument(
            f"log level {level!r} is unknown: expected one of {', '.join(LEVELS)}"
        )
    formatter, style = _style(log_format == "json", process)
    sink = write or (open_file(file) if file else to_descriptor(STDERR))
    writer = LogWriter(
        sink if process is None else in_pieces(sink), style.render, style.gap, mark=style.mark
    )
    handler = LineHandler(writer.put_line)
    handler.setFormatter(formatter)
    previous = _set_levels(getattr(logging, level.upper()))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    log = AccessLog(writer.put_entry, access_every) if access else AccessLog()
    return Logs(log, writer, handler, previous, process)


def configure_logs(options: ServerOptions, process: int | None = None) -> Logs:
    """Logs as the options want them; `process` is the number of one of several servers."""
    logs = configure(file=options.log_file, access=options.access_log, process=process)
    logs.change(LogSettings.of(options))
    return logs


def _style(json_wanted: bool, process: int | None) -> tuple[logging.Formatter, Style]:
    """How records become lines, and everything else that is written."""
    formatter = JsonFormatter() if json_wanted else HumanFormatter()
    style = Style(
        json_line if json_wanted else human_line,
        lambda dropped: formatter.format(_gap(dropped)),
        None if process is None else _mark(process, json_wanted),
    )
    return formatter, style


def _mark(process: int, json_wanted: bool) -> Callable[[str], str]:
    """Puts the number behind the time, or into the object."""
    if json_wanted:
        return lambda line: f'{{"process": {process}, {line[1:]}'
    return lambda line: line.replace(" ", f" [{process}] ", 1)


def _set_levels(level: int) -> Mapping[str, int]:
    wanted = {"": max(level, logging.INFO), **dict.fromkeys(OWN_LOGGERS, level)}
    previous = {name: logging.getLogger(name).level for name in wanted}
    for name, number in wanted.items():
        logging.getLogger(name).setLevel(number)
    return previous


def _gap(dropped: int) -> logging.LogRecord:
    text = f"{dropped} log lines before this one were lost: they could not be written in time"
    now = time.time()
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelname": "WARNING",
            "levelno": logging.WARNING,
            "msg": text,
            "created": now,
        }
    )


def _wall_ns(record: logging.LogRecord) -> int:
    return int(record.created * 1e6) * 1000


def _extra(record: logging.LogRecord) -> dict[str, object]:
    """What the caller passed as `extra`, as plain values."""
    return {name: _plain(value) for name, value in record.__dict__.items() if name not in _STANDARD}


def _plain(value: object) -> object:
    """The value if JSON has a word for it, else its text."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)[:MESSAGE_LIMIT]


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)
