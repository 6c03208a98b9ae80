"""What `--trace-config` says: Triton's `level=`, `rate=`, `count=` and `mode=` of all traces, and
the options of each mode behind its name.

Imports nothing of what traces: the supervisor of several processes reads it too.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penstock.trace_settings import MODES, OPENTELEMETRY, TRITON, TraceValues, read_setting
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.trace_level import Level

_SETTINGS = {"level": "trace_level", "rate": "trace_rate", "count": "trace_count"}
_SETTINGS["mode"] = "trace_mode"
# Name, variable of OpenTelemetry's own, default.
_BSP = (
    ("bsp_max_queue_size", "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
    ("bsp_schedule_delay", "OTEL_BSP_SCHEDULE_DELAY", 5000),
    ("bsp_max_export_batch_size", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
)
_OF_MODE = {
    TRITON: ("file", "log-frequency"),
    OPENTELEMETRY: ("url", "resource", *(name for name, _, _ in _BSP)),
}
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class SpanExport:
    """Where spans go ("": where OTEL_* say), what they say of the service, and how many wait."""

    url: str = ""
    resource: Mapping[str, str] = field(default_factory=dict)
    max_queue_size: int = 2048
    schedule_delay_ms: int = 5000
    max_batch_size: int = 512


@dataclass(frozen=True, slots=True)
class TraceConfig:
    """The settings at the start, the file of mode triton ("": none), and how mode opentelemetry
    exports (None: the server is not prepared for it).
    """

    values: TraceValues = field(default_factory=TraceValues)
    file: str = ""
    spans: SpanExport | None = None


def read_trace_config(
    settings: Sequence[str], environ: Mapping[str, str] = os.environ
) -> TraceConfig:
    """What the flags ask for; InvalidArgument names what is wrong."""
    values, file, spans = TraceValues(), "", dict[str, Any]()
    resource: dict[str, str] = {}
    prepared = False
    for setting in settings:
        mode, pairs = _parts(setting)
        prepared |= mode == OPENTELEMETRY
        for key, text in pairs:
            if not mode:
                values = _with(values, key, text, setting)
            elif key == "file":
                file = text
            elif key == "log-frequency":
                values = _set(values, "log_frequency", text, setting)
            elif key == "resource":
                name, _, said = text.partition("=")
                resource[name] = said
            else:
                spans[key] = text
    prepared |= values.mode == OPENTELEMETRY
    return TraceConfig(values, file, _spans(spans, resource, environ) if prepared else None)


def of_process(settings: Sequence[str], number: int) -> tuple[str, ...]:
    """The same for one of several processes: each has a file of its own, PATH.processNUMBER."""
    file = read_trace_config(settings).file
    mine = f"{TRITON},file={file}.process{number}"
    return (*settings, mine) if file else tuple(settings)


def _parts(setting: str) -> tuple[str, Iterator[tuple[str, str]]]:
    """The mode, "" for what is of all of them, and its pairs."""
    first, *rest = setting.split(",")
    mode = "" if "=" in first else first.strip()
    if mode and (mode not in MODES or not rest):
        raise _wrong(setting)
    known = _OF_MODE[mode] if mode else tuple(_SETTINGS)
    pairs = [part.strip().partition("=") for part in (rest if mode else (first, *rest))]
    for key, is_pair, text in pairs:
        if key not in known or not is_pair or not text:
            raise _wrong(setting, f"expected {', '.join(f'{name}=' for name in known)}")
    return mode, ((key, text) for key, _, text in pairs)


def _with(values: TraceValues, key: str, text: str, setting: str) -> TraceValues:
    changed = _set(values, _SETTINGS[key], text, setting)
    # Levels that are given one by one add up.
    if key == "level" and changed.level is not Level.OFF:
        return replace(changed, level=changed.level | values.level)
    return changed


def _set(values: TraceValues, name: str, text: str, setting: str) -> TraceValues:
    try:
        place, value = read_setting(name, (text,))
    except InvalidArgument as error:
        raise _wrong(setting, error.message.partition(": ")[2]) from None
    return replace(values, **{place: value})


def _spans(
    said: Mapping[str, str], resource: Mapping[str, str], environ: Mapping[str, str]
) -> SpanExport:
    queue, delay, batch = (
        _count(f"{OPENTELEMETRY},{name}", said[name])
        if name in said
        else _count(variable, environ.get(variable) or str(default))
        for name, variable, default in _BSP
    )
    return SpanExport(said.get("url", ""), resource, queue, delay, min(batch, queue))


def _count(name: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text[:8]) <= _MOST:
        return int(text)
    raise InvalidArgument(f"{name}={text[:32]!r}: expected a whole number from 1 to {_MOST}")


def _wrong(setting: str, what: str = "") -> InvalidArgument:
    expected = what or f"expected KEY=VALUE or one of {', '.join(MODES)} with ,KEY=VALUE behind it"
    return InvalidArgument(f"--trace-config {setting!r}: {expected}")
