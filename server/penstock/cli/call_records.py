"""The record of calls as it lies on the disk: read, searched, put in order."""

import heapq
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Record = dict[str, Any]
OLD = ".1"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Search:
    """Which calls are wanted; what is empty or None is no condition."""

    text: str = ""
    model: str = ""
    since: datetime | None = None
    failed: bool = False

    def wants(self, line: str, record: Record) -> bool:
        """Whether a call is among them; `line` is how it stands in the file."""
        if self.model and record.get("model") != self.model:
            return False
        if self.failed and not failed(record):
            return False
        if self.since is not None and not _not_before(record, self.since):
            return False
        return not self.text or self._found(line, record)

    def _found(self, line: str, record: Record) -> bool:
        wanted = self.text.casefold()
        # In the line a line break is an escape, in the texts it is one.
        texts = (line, str(record.get("prompt", "")), str(record.get("answer", "")))
        return any(wanted in text.casefold() for text in texts)


@dataclass(slots=True)
class Found:
    """The calls to show, how many there are of their kind, and how many lines are no record."""

    records: list[Record]
    count: int = 0
    failed: int = 0
    unreadable: int = 0


def search(lines: Iterable[str], wanted: Search, limit: int, slowest: bool) -> Found:
    """The newest of the calls that are wanted, or those that took longest; 0 is no limit."""
    found = Found([])
    matching = _matching(lines, wanted, found)
    if slowest:
        key: Callable[[Record], float] = total_ms
        found.records = heapq.nlargest(limit, matching, key=key)
    else:
        # The file is in the order in which calls ended.
        found.records = list(deque(matching, limit or None))[::-1]
    return found


def _matching(lines: Iterable[str], wanted: Search, found: Found) -> Iterator[Record]:
    for line in lines:
        record = _read(line)
        if record is None:
            found.unreadable += bool(line.strip())
        elif wanted.wants(line, record):
            found.count += 1
            found.failed += failed(record)
            yield record


def _read(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_lines(path: Path) -> Iterator[str]:
    """The lines of the file that was turned over before, if there is one, and of this one."""
    if str(path) == "-":
        yield from sys.stdin
        return
    with ExitStack() as stack:
        # Opened before anything is read: the file may be turned over meanwhile.
        new = stack.enter_context(path.open(encoding="utf-8", errors="replace"))
        old = path.with_name(path.name + OLD)
        if old.is_file():
            yield from stack.enter_context(old.open(encoding="utf-8", errors="replace"))
        yield from new


def failed(record: Record) -> bool:
    """Whether a call ended with anything but success."""
    return str(record.get("status", "OK")) != "OK"


def total_ms(record: Record) -> float:
    """How long a call took, in milliseconds."""
    value = record.get("total_ms")
    return float(value) if isinstance(value, int | float) else 0.0


def time_of(record: Record) -> datetime | None:
    """When a call came; None if the record does not say."""
    try:
        moment = datetime.fromisoformat(str(record.get("time", "")))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _not_before(record: Record, since: datetime) -> bool:
    moment = time_of(record)
    return moment is not None and moment >= since


def parse_since(text: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> datetime:
    """90s, 15m, 2h, 3d ago, or a date and time (of this place unless it says otherwise)."""
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdecimal():
        return now() - timedelta(seconds=float(number) * _UNITS[unit])
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(f"expected 15m, 2h, 3d or a date, got {text!r}") from None
