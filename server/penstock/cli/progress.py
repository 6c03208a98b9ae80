"""A progress bar for what takes long: on a terminal a bar that moves, elsewhere a line every 10 %
or 10 s (but no more than one a second), so that a log stays readable.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from penstock.cli.terminal import is_terminal

_NS = 1_000_000_000
_REDRAW_NS = _NS // 10
_LEAST_LINE_NS = _NS
_MOST_LINE_NS = 10 * _NS
_WIDTH = 30
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class Progress:
    """Tells how much of `total` is done; closes itself at the end of its `with` block."""

    def __init__(
        self,
        label: str,
        total: float,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._label = label
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._bar = is_terminal(self._stream)
        self._clock = clock
        self._began = self._told = clock()
        self._tenths = 0
        self.done: float = 0

    def update(self, done: float, note: str = "") -> None:
        """So much is done now; `note` is shown beside it."""
        self.done = min(done, self._total)
        now = self._clock()
        if self._bar:
            if now - self._told >= _REDRAW_NS or self.done >= self._total:
                self._told = now
                self._write(f"\r\x1b[K{self._label} {bar(self.share)} {self._text(now, note)}")
            return
        tenths, silent = int(self.share * 10), now - self._told
        if (tenths > self._tenths and silent >= _LEAST_LINE_NS) or silent >= _MOST_LINE_NS:
            self._tenths, self._told = tenths, now
            self._write(f"{self._label}: {self._text(now, note)}\n")

    def advance(self, by: float = 1, note: str = "") -> None:
        """So much more is done."""
        self.update(self.done + by, note)

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        return self.done / self._total if self._total > 0 else 1.0

    def close(self) -> None:
        """Leave the line."""
        if self._bar:
            self._write("\n")

    def _text(self, now: int, note: str) -> str:
        spent = (now - self._began) / _NS
        left = f", {spent / self.share - spent:.0f} s left" if 0 < self.share < 1 else ""
        return f"{self.share:4.0%} {spent:.0f} s{left}{'  ' + note if note else ''}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def bar(share: float) -> str:
    """A bar of fixed width, filled to `share` (0 to 1) in eighths of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * _WIDTH * 8)
    full, part = divmod(eighths, 8)
    cells = "█" * full + (_EIGHTHS[part] if part else "")
    return f"│{cells:<{_WIDTH}}│"
