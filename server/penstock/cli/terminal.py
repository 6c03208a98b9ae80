"""Colour on a terminal (and nowhere else, and never with NO_COLOR), and tables of plain text."""

import os
from collections.abc import Sequence
from typing import TextIO

_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36}


def is_terminal(stream: TextIO) -> bool:
    """Whether someone watches this stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def draws_blocks(stream: TextIO) -> bool:
    """Whether block characters may be used: someone watches, and the locale has them.

    Python itself sets LC_CTYPE to C.UTF-8 where the locale is C, so that this value says nothing.
    """
    chosen = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    if chosen[1].upper() in ("C.UTF-8", "C.UTF8", "UTF-8"):
        del chosen[1]
    locale = next(filter(None, chosen), "")
    return is_terminal(stream) and "UTF" in locale.upper()


class Paint:
    """Colours text for one stream, or leaves it as it is."""

    def __init__(self, stream: TextIO) -> None:
        self.enabled = is_terminal(stream) and not os.environ.get("NO_COLOR")

    def __call__(self, text: str, colour: str) -> str:
        """The text in a colour (or bold, dim)."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self.enabled else text


def heading(text: str, width: int = 80) -> str:
    """A line across the page with a few words in it."""
    return f"── {text} ".ljust(width, "─")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Rows under their head in aligned columns; the columns in `numbers` align to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join(_line(row, widths, numbers) for row in [head, *rows])


def _line(row: Sequence[str], widths: Sequence[int], numbers: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if i in numbers else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def plain(text: str) -> str:
    """Text of others made safe to print: control characters become visible."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
