"""Calls of language models as a table that fits its page, or each in full."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penstock.cli.call_records import Record, failed, time_of
from penstock.cli.terminal import Paint, heading, plain, table

_GAP = 2
# What prompts and answers should have at least.
_TEXT = 36
_NUMBERS = frozenset({"IN", "CACHED", "OUT", "FIRST", "TOKEN", "QUEUE", "TOTAL"})
# What goes first where the page is too narrow.
_EXPENDABLE = ("ID", "TENANT", "CACHED", "QUEUE", "TOKEN", "MODEL", "IN")
_TIMES = {"FIRST": "ttft_ms", "TOKEN": "itl_mean_ms", "QUEUE": "queue_ms", "TOTAL": "total_ms"}
_COUNTS = {"IN": "prompt_tokens", "CACHED": "cached_tokens", "OUT": "output_tokens"}


@dataclass(frozen=True, slots=True)
class Column:
    """A head and its cells, a call each."""

    head: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        """The width of the widest."""
        return max(map(len, (self.head, *self.cells)))


def render(records: Sequence[Record], width: int | None, paint: Paint, today: datetime) -> str:
    """The table; `width` None is a page without end. Failed calls are red."""
    texts = any(map(_has_text, records))
    room = None if width is None else width - (_GAP + _TEXT if texts else 0)
    columns = _fitting(_columns(records, today), room)
    text = _text_column(records, columns, width) if texts else None
    columns += [text] if text else []
    rows = list(zip(*(column.cells for column in columns), strict=True))
    heads = [column.head for column in columns]
    numbers = [i for i, head in enumerate(heads) if head in _NUMBERS]
    head, *lines = table(heads, rows, numbers).split("\n")
    coloured = [
        paint(line, "red") if failed(record) else line
        for line, record in zip(lines, records, strict=True)
    ]
    return "\n".join([paint(head, "bold"), *coloured])


def _columns(records: Sequence[Record], today: datetime) -> list[Column]:
    """All but the texts; those that say nothing are left out."""
    cells = {
        "TIME": [_moment(record, today) for record in records],
        "MODEL": [_text(record, "model") for record in records],
        "ID": [_text(record, "id") for record in records],
        "TENANT": [_text(record, "tenant") for record in records],
    }
    cells |= {head: [_count(r, name) for r in records] for head, name in _COUNTS.items()}
    cells |= {head: [_time(r, name) for r in records] for head, name in _TIMES.items()}
    cells["END"] = [_end(record) for record in records]
    return [Column(head, tuple(column)) for head, column in cells.items() if any(column)]


def _fitting(columns: list[Column], width: int | None) -> list[Column]:
    """Those that have room, the expendable ones going first."""
    for head in _EXPENDABLE:
        if width is None or _width(columns) <= width:
            break
        columns = [column for column in columns if column.head != head]
    return columns


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _text_column(
    records: Sequence[Record], columns: Sequence[Column], width: int | None
) -> Column | None:
    """Prompts and answers, or errors, in what is left of the page; None if that is too little."""
    room = None if width is None else width - _width(columns) - _GAP
    if room is not None and room < _TEXT // 2:
        return None
    head = "PROMPT → ANSWER" if any(record.get("prompt") for record in records) else "ERROR"
    return Column(head, tuple(_said(record, room) for record in records))


def _has_text(record: Record) -> bool:
    return any(record.get(name) for name in ("prompt", "answer", "error"))


def _said(record: Record, room: int | None) -> str:
    """The beginnings of both texts, of a prompt no more than half."""
    prompt, answer = _one_line(str(record.get("prompt", ""))), _answer(record)
    if not prompt:
        return _cut(answer, room)
    return _cut(f"{_cut(prompt, 60 if room is None else room // 2)} → {answer}", room)


def _answer(record: Record) -> str:
    return _one_line(str(record.get("error" if failed(record) else "answer", "")))


def _one_line(text: str) -> str:
    return plain(" ".join(text.split()))


def _cut(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else text[: room - 1] + "…"


def _moment(record: Record, today: datetime) -> str:
    moment = time_of(record)
    if moment is None:
        return "-"
    local = moment.astimezone(today.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M:%S}"


def _text(record: Record, name: str) -> str:
    return plain(str(record.get(name, "")))


def _count(record: Record, name: str) -> str:
    value = record.get(name)
    return f"{value:,}" if isinstance(value, int) else ""


def _time(record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, int | float):
        return ""
    if value >= 10_000:
        return f"{value / 1e3:,.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _end(record: Record) -> str:
    return _text(record, "status" if failed(record) else "finish_reason") or "-"


def full(record: Record, paint: Paint) -> str:
    """One call with all that is known of it."""
    moment = time_of(record)
    when = f"{moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else "-"
    title = paint(heading(f"{when}  {_text(record, 'model')}"), "bold")
    hidden = ("time", "model", "prompt", "answer")
    known = {name: value for name, value in record.items() if name not in hidden and value != ""}
    width = max(map(len, known), default=0)
    lines = [f"{paint(name.ljust(width), 'dim')}  {_value(value)}" for name, value in known.items()]
    for name in ("prompt", "answer"):
        if record.get(name):
            lines += [paint(name, "dim"), "  " + _text(record, name).replace("\n", "\n  ")]
    return "\n".join([title, *lines])


def _value(value: object) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
