"""The thread that writes the log, and the bounded buffer before it; no one waits for either."""

import os
import select
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.observability.access_log import AccessEntry

BUFFER_BYTES = 8 * 1024 * 1024

# What an access entry may hold at most, about: its texts are cut before they come here.
ENTRY_BYTES = 1024

# The first line wakes the thread, which then gathers what follows: one write for many lines.
LINGER_S = 0.02


@dataclass(frozen=True, slots=True)
class Style:
    """How what is handed over becomes lines: `render` for access entries, `gap` for the number of
    lines that were lost; `mark` changes every line.
    """

    render: Callable[[AccessEntry], str]
    gap: Callable[[int], str]
    mark: Callable[[str], str] | None = None

    def lines(self, items: Sequence[str | AccessEntry], lost: int = 0) -> list[str]:
        """Each as a line, and one more where some were lost."""
        lines = [item if isinstance(item, str) else self.render(item) for item in items]
        if lost:
            lines.append(self.gap(lost))
        return lines if self.mark is None else [self.mark(line) for line in lines]


class LogWriter:
    """Takes lines from any thread and writes them in order from its own.

    Beyond `limit_bytes` of waiting text, and where `write` fails, lines are dropped and counted;
    `gap` turns their number into a line once writing works again, and `mark` changes every line.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        render: Callable[[AccessEntry], str],
        gap: Callable[[int], str],
        limit_bytes: int = BUFFER_BYTES,
        mark: Callable[[str], str] | None = None,
    ) -> None:
        self._write = write
        self._style = Style(render, gap, mark)
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._waiting: list[str | AccessEntry] = []
        self._finished: list[str] = []
        """What waited when the style changed, in the style that it was meant for."""
        self._size = 0
        self._dropped = 0
        self._told = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost until now."""
        return self._dropped

    def put_line(self, line: str) -> None:
        """Take one line, without its end."""
        self._put(line, len(line))

    def put_entry(self, entry: AccessEntry) -> None:
        """Take one access entry; its text is made by the writing thread."""
        self._put(entry, ENTRY_BYTES)

    def restyle(self, style: Style) -> None:
        """Write what comes from here on in this style."""
        with self._lock:
            self._finished += self._style.lines(self._waiting)
            self._waiting = []
            self._style = style

    def close(self, timeout_s: float) -> bool:
        """Write what waits and end the thread; False if it did not end in time."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, item: str | AccessEntry, size: int) -> None:
        with self._lock:
            if self._size + size > self._limit or self._closing.is_set():
                self._dropped += 1
                return
            self._size += size
            self._waiting.append(item)
            first = len(self._waiting) == 1
        if first:
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            closing = self._closing.wait(LINGER_S)
            self._wake.clear()
            self._flush()
            if closing:
                return

    def _flush(self) -> None:
        with self._lock:
            items, self._waiting, self._size = self._waiting, [], 0
            finished, self._finished = self._finished, []
            style = self._style
            lost = self._dropped - self._told
            self._told = self._dropped
        if not items and not finished and not lost:
            return
        try:
            lines = finished + style.lines(items, lost)
            self._write(("\n".join(lines) + "\n").encode(errors="backslashreplace"))
        except Exception:
            # The log cannot tell of its own failure; the count can.
            with self._lock:
                self._dropped += len(items) + len(finished)
                self._told -= lost

    def __repr__(self) -> str:
        return f"LogWriter(waiting={len(self._waiting)}, dropped={self._dropped})"


def to_descriptor(fd: int) -> Callable[[bytes], None]:
    """Writes all of the bytes to the descriptor, however long that takes."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                select.select((), (fd,), ())

    return write


def in_pieces(
    write: Callable[[bytes], object], size: int = select.PIPE_BUF
) -> Callable[[bytes], None]:
    """Writes whole lines, no more than `size` bytes of them at a time, or one that is longer.

    A pipe takes so much at once or not at all: lines of several processes are not torn apart.
    """

    def write_pieces(data: bytes) -> None:
        start = 0
        while len(data) - start > size:
            end = data.rfind(b"\n", start, start + size) + 1 or data.find(b"\n", start) + 1
            if not end:
                break
            write(data[start:end])
            start = end
        if start < len(data):
            write(data[start:])

    return write_pieces


def open_file(path: str) -> Callable[[bytes], None]:
    """Appends to the file, which is made if need be; raises InvalidArgument if it cannot be."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise InvalidArgument(f"log file {path!r} cannot be opened: {error.strerror}") from error
    return to_descriptor(fd)
