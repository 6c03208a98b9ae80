"""One line per call: who asked what of which model, how it ended and where the time went.

An entry is handed to a sink at once and turned into text by whoever writes it, so that a call pays
for a tuple and no more. Nothing here opens a file.
"""

import json
from collections.abc import Callable
from itertools import count
from typing import NamedTuple
from urllib.parse import unquote

from penstock_runtime.observability.log_text import one_line, timestamp

# What a caller chooses freely is cut to this, so that a log line stays one.
TEXT_LIMIT = 128

_encode = json.JSONEncoder(separators=(",", ":")).encode


class AccessEntry(NamedTuple):
    """One call. Sizes are in bytes; times are nanoseconds, `wall_ns` since the epoch.

    `batch_size` are the rows of the batch that it was executed in, 0 if it was not executed;
    `responses` is 1 but for streams; `peer` has no port.
    """

    # A tuple, because one is made per call and a frozen dataclass costs three times as much.
    wall_ns: int
    rpc: str
    status: str
    model: str = ""
    version: str = ""
    id: str = ""
    trace_id: str = ""
    peer: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    responses: int = 1
    batch_size: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    total_ns: int = 0


Sink = Callable[[AccessEntry], object]


class AccessLog:
    """Decides which calls are logged, and hands them on; without a sink it is off.

    Ask `enabled` (an attribute) before anything is gathered, `wants` once the status is known.
    `every` logs one of so many calls that went well; one that did not is always logged.
    """

    __slots__ = ("_calls", "_every", "_sink", "enabled")

    def __init__(self, sink: Sink | None = None, every: int = 1) -> None:
        self._sink = sink
        self._every = max(every, 1)
        self._calls = count()
        self.enabled = sink is not None

    def wants(self, ok: bool) -> bool:
        """Whether this call is to be logged."""
        return self.enabled and (not ok or next(self._calls) % self._every == 0)

    def record(self, entry: AccessEntry) -> None:
        """Hand the entry on, its texts cut to a bounded length."""
        if self._sink is None:
            return
        if len(entry.id) + len(entry.model) + len(entry.version) + len(entry.trace_id) > TEXT_LIMIT:
            entry = entry._replace(
                id=one_line(entry.id, TEXT_LIMIT),
                model=one_line(entry.model, TEXT_LIMIT),
                version=one_line(entry.version, TEXT_LIMIT),
                trace_id=one_line(entry.trace_id, TEXT_LIMIT),
            )
        self._sink(entry)

    def __repr__(self) -> str:
        return f"AccessLog(enabled={self.enabled}, every={self._every})"


def json_line(entry: AccessEntry) -> str:
    """The entry as one JSON object, always with the same members; times in microseconds."""
    line = _encode(
        {
            "time": timestamp(entry.wall_ns),
            "level": "INFO",
            "event": "access",
            "rpc": entry.rpc,
            "status": entry.status,
            "model": entry.model,
            "version": entry.version,
            "id": entry.id,
            "trace_id": entry.trace_id,
            "peer": entry.peer,
            "request_bytes": entry.request_bytes,
            "response_bytes": entry.response_bytes,
            "responses": entry.responses,
            "batch_size": entry.batch_size,
            "queue_us": entry.queue_ns // 1000,
            "compute_us": entry.compute_ns // 1000,
            "total_us": entry.total_ns // 1000,
        }
    )
    # The one control character that JSON lets pass.
    return line.replace("\x7f", "\\u007f")


def human_line(entry: AccessEntry) -> str:
    """The entry as `name=value` pairs, those left out that say nothing."""
    pairs = (
        ("model", _quoted(entry.model)),
        ("version", _quoted(entry.version)),
        ("id", _quoted(entry.id)),
        ("trace_id", _quoted(entry.trace_id)),
        ("in", f"{entry.request_bytes}B"),
        ("out", f"{entry.response_bytes}B"),
        ("responses", entry.responses if entry.responses != 1 else ""),
        ("batch", entry.batch_size or ""),
        ("queue", f"{entry.queue_ns // 1000}us" if entry.batch_size else ""),
        ("compute", f"{entry.compute_ns // 1000}us" if entry.batch_size else ""),
        ("total", f"{entry.total_ns // 1000}us"),
        ("peer", _quoted(entry.peer)),
    )
    said = " ".join(f"{name}={value}" for name, value in pairs if value != "")
    head = f"{timestamp(entry.wall_ns)} INFO access {one_line(entry.rpc)} {one_line(entry.status)}"
    return f"{head} {said}"


def peer_host(peer: str) -> str:
    """The host of a gRPC peer (`ipv4:1.2.3.4:567`, `ipv6:%5B::1%5D:567`, `unix:...`), no port."""
    kind, _, rest = peer.partition(":")
    if kind == "unix":
        return "unix"
    if kind not in ("ipv4", "ipv6"):
        return peer
    return unquote(rest).rpartition(":")[0].strip("[]")


def _quoted(text: str) -> str:
    """A text that stays one word: quoted where a blank, a quote or `=` would end or forge it."""
    safe = one_line(text)
    if any(character in safe for character in ' "='):
        return '"' + safe.replace('"', r"\"") + '"'
    return safe
