"""The latencies of a run drawn with characters: a bar for each load, or the histogram of the only
one. Pure; plain ASCII where the terminal may have nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.bench.scales import LogScale, around, duration, short
from penstock.bench.summary import Summary

_WIDTH = 60
_MOST_BINS = 24


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of a plot: up to p50, p90, p99, p99.9 and the maximum; blocks of eighths."""

    parts: str
    blocks: str
    tick: str
    line: str


FANCY = Glyphs("█▓▒░·", " ▏▎▍▌▋▊▉█", "┴", "─")
ASCII = Glyphs("#=-:.", " #", "+", "-")


def draw(rows: Sequence[Summary], labels: Sequence[str], glyphs: Glyphs) -> list[str]:
    """The lines of the plot; none if nothing was answered."""
    found = [(row, label) for row, label in zip(rows, labels, strict=True) if row.requests]
    if not found:
        return []
    if len(found) == 1:
        return _histogram(found[0][0], glyphs)
    return _bars(found, glyphs)


def _bars(found: Sequence[tuple[Summary, str]], glyphs: Glyphs) -> list[str]:
    scale = around([t for row, _ in found for t in (row.min_ms, row.p50_ms, row.max_ms)])
    margin = max(len(label) for _, label in found)
    names = ("min-p50", "-p90", "-p99", "-p99.9", "-max")
    legend = "  ".join(f"{part} {name}" for part, name in zip(glyphs.parts, names, strict=True))
    lines = [f"latency, logarithmic   {legend}"]
    lines += [f"{label:>{margin}}  {_bar(row, scale, glyphs)}" for row, label in found]
    return lines + [f"{'':>{margin}}  {line}" for line in _axis(scale, glyphs)]


def _bar(row: Summary, scale: LogScale, glyphs: Glyphs) -> str:
    def place(ms: float) -> int:
        return round(scale(ms) * _WIDTH)

    text = " " * place(row.min_ms)
    ends = (row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms)
    for part, end in zip(glyphs.parts, ends, strict=True):
        text = text.ljust(place(end), part)
    return text


def _axis(scale: LogScale, glyphs: Glyphs) -> list[str]:
    """A line with a tick at each round number, and the numbers that have room below it."""
    line, below = [glyphs.line] * (_WIDTH + 1), ""
    for tick in scale.ticks():
        at, text = round(scale(tick) * _WIDTH), short(tick)
        line[at] = glyphs.tick
        start = max(at - len(text) // 2, 0)
        if not below or start > len(below):
            below = below.ljust(start) + text
    return ["".join(line), below + " ms"]


def _histogram(row: Summary, glyphs: Glyphs) -> list[str]:
    bins = _merged(row)
    most = max(count for _, _, count in bins)
    edges = [(duration(low), duration(high)) for low, high, _ in bins]
    width = max(len(text) for pair in edges for text in pair)
    return ["latency, count of requests (bins of equal ratio)"] + [
        f"{low:>{width}} - {high:>{width}}  {_block(count / most, glyphs)} {count:,}"
        for (low, high), (_, _, count) in zip(edges, bins, strict=True)
    ]


def _merged(row: Summary) -> list[tuple[float, float, int]]:
    """(low, high, count) in ms, neighbours put together until there are few enough."""
    bins, ratio = row.histogram, 2 ** (1 / 4)
    step = -(-len(bins) // _MOST_BINS)
    found = []
    for at in range(0, len(bins), step):
        some = bins[at : at + step]
        found.append((some[0][0] / ratio, some[-1][0], sum(count for _, count in some)))
    return found


def _block(share: float, glyphs: Glyphs) -> str:
    """A bar of this share of the width; what is not nothing is seen."""
    parts = len(glyphs.blocks) - 1
    cells = max(round(share * _WIDTH * 2 / 3 * parts), 1 if share else 0)
    full, part = divmod(cells, parts)
    return glyphs.blocks[-1] * full + (glyphs.blocks[part] if part else "")
