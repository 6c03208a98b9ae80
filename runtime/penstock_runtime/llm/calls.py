"""The record of calls: who asked which model for how much, what came of it and how long it took, a
JSON line each. Whoever is recorded never waits for the disk. `penstock calls` reads it.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Protocol

from penstock_runtime.errors import InvalidArgument

MOST_RECORDS = 4096
MOST_BYTES = 32 << 20
"""What may wait for the disk at most."""

OLD = ".1"
_LINGER_S = 0.1
# What a record takes beside its texts, about.
_RECORD_BYTES = 512
# Of a file that cannot be written one line a minute is told.
_TELL_NS = 60_000_000_000
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode
_log = logging.getLogger("penstock.llm")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that is over.

    `time_ns` is when it came, since 1970; times in ms are None where there was no such thing, as
    no first token. `status` is OK or the name of the status that it failed with, and `error` what
    was said then. `prompt` and `answer` are written only where the log keeps contents.
    """

    time_ns: int
    model: str
    version: str = ""
    id: str = ""
    tenant: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str = ""
    status: str = "OK"
    error: str = ""
    ttft_ms: float | None = None
    itl_mean_ms: float | None = None
    queue_ms: float | None = None
    total_ms: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    prompt: str = ""
    answer: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it holds on to."""
        texts = (self.id, self.tenant, self.finish_reason, self.error, self.prompt, self.answer)
        return _RECORD_BYTES + sum(map(len, texts)) + len(str(self.parameters))

    def document(self, content: bool) -> dict[str, Any]:
        """What the file says of it, with the texts or without."""
        said: dict[str, Any] = {"time": rfc3339(self.time_ns), "model": self.model}
        for name in ("version", "id", "tenant"):
            if getattr(self, name):
                said[name] = getattr(self, name)
        for name in ("prompt_tokens", "output_tokens", "cached_tokens", "finish_reason", "status"):
            said[name] = getattr(self, name)
        if self.error:
            said["error"] = self.error
        for name in ("ttft_ms", "itl_mean_ms", "queue_ms", "total_ms"):
            if (value := getattr(self, name)) is not None:
                said[name] = round(value, 3)
        said["parameters"] = dict(self.parameters)
        if content:
            said |= {"prompt": self.prompt, "answer": self.answer}
        return said


class Calls(Protocol):
    """Where calls are recorded. Any method from any thread; none waits or raises."""

    @property
    def content(self) -> bool:
        """Whether texts are recorded too."""

    def append(self, record: CallRecord) -> bool:
        """Take one; False if there is no room for it."""

    def lost(self, count: int) -> None:
        """So many records did not get as far as here."""


def rfc3339(time_ns: int) -> str:
    """A time since 1970 as a date, in UTC, to the millisecond."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


class CallFile:
    """A file of lines that is never longer than `max_bytes`: when it would be, it becomes PATH.1,
    in the place of the one before. Several writers, of other processes too, may share it.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fd = self._open()

    def write(self, lines: Sequence[bytes]) -> int:
        """Append as many of these as fit together, at least one; how many. OSError if none can."""
        if self._fd < 0:
            self._fd = self._open()
        self._lock()
        try:
            count = _fitting(lines, self._max_bytes - self._length)
            if not count:
                os.replace(self._path, self._path + OLD)
                self._lock()
                count = max(_fitting(lines, self._max_bytes - self._length), 1)
            self._append(b"".join(lines[:count]))
            return count
        finally:
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # What people ask a model is nobody else's business.
        return os.open(self._path, flags, 0o600)

    def _lock(self) -> None:
        """Be the only one that writes to what the path names: others may have turned it over."""
        while True:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if self._current():
                return
            self.close()
            self._fd = self._open()

    def _current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    @property
    def _length(self) -> int:
        return os.fstat(self._fd).st_size

    def _append(self, data: bytes) -> None:
        before = self._length
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            # Half a line would spoil the next one.
            os.ftruncate(self._fd, before)
            raise


def _fitting(lines: Sequence[bytes], room: int) -> int:
    for count, line in enumerate(lines):
        room -= len(line)
        if room < 0:
            return count
    return len(lines)


@dataclass(frozen=True, slots=True)
class CallLogStats:
    """How many records wait, were written, and were lost."""

    waiting: int
    written: int
    dropped: int


class CallLog:
    """Takes records from any thread and writes them from its own.

    Beyond `most` records or MOST_BYTES of them that wait, and where the disk fails, records are
    dropped and counted; nothing of that reaches whoever appends. Only making it raises, an
    InvalidArgument, where the file cannot be opened.
    """

    def __init__(
        self, path: str, max_bytes: int, content: bool = False, *, most: int = MOST_RECORDS
    ) -> None:
        try:
            self._file = CallFile(path, max_bytes)
        except OSError as error:
            text = f"the record of calls {path!r} cannot be opened: {error.strerror}"
            raise InvalidArgument(text) from error
        self._path = path
        self._max_bytes = max_bytes
        self._content = content
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[CallRecord] = []
        self._size = 0
        self._closing = False
        self._written = self._dropped = 0
        self._told_ns = -_TELL_NS
        self._thread = threading.Thread(target=self._run, name="penstock-calls", daemon=True)
        self._thread.start()

    @property
    def content(self) -> bool:
        """Whether texts are recorded too."""
        return self._content

    def append(self, record: CallRecord) -> bool:
        """Take one; False if there is no room for it. Never waits and never raises."""
        size = record.size
        with self._changed:
            full = len(self._waiting) >= self._most or self._size + size > MOST_BYTES
            if full or self._closing:
                self._dropped += 1
                return False
            self._waiting.append(record)
            self._size += size
            if len(self._waiting) == 1:
                self._changed.notify_all()
        return True

    def lost(self, count: int) -> None:
        """So many records did not get as far as here."""
        with self._changed:
            self._dropped += count

    def stats(self) -> CallLogStats:
        """How many records wait, were written, and were lost."""
        with self._changed:
            return CallLogStats(len(self._waiting), self._written, self._dropped)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits and end the thread; False if it did not end in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- its own thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                # One write for many that end together.
                self._changed.wait_for(lambda: self._closing, _LINGER_S)
                records, self._waiting, self._size = self._waiting, [], 0
                closing = self._closing
            self._keep(records)
            if closing:
                self._file.close()
                return

    def _keep(self, records: Sequence[CallRecord]) -> None:
        lines = [line for line in map(self._line, records) if 0 < len(line) <= self._max_bytes]
        lost = len(records) - len(lines)
        written = 0
        try:
            while written < len(lines):
                written += self._file.write(lines[written:])
        except Exception as error:
            lost += len(lines) - written
            self._complain(error)
        with self._changed:
            self._written += written
            self._dropped += lost

    def _line(self, record: CallRecord) -> bytes:
        try:
            text = _encode(record.document(self._content))
        except Exception as error:
            self._complain(error)
            return b""
        return text.encode(errors="backslashreplace") + b"\n"

    def _complain(self, error: Exception) -> None:
        now = time.monotonic_ns()
        if now - self._told_ns >= _TELL_NS:
            self._told_ns = now
            why = getattr(error, "strerror", None) or str(error)
            _log.warning("records of calls are lost: %s: %s", self._path, why)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"CallLog({self._path!r}, waiting={stats.waiting}, dropped={stats.dropped})"
