"""The picture of a run: the latency of each load by percentile, and latency over throughput."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.bench.scales import LinearScale, LogScale, NinesScale, amount, around, duration, short
from penstock.bench.summary import Summary
from penstock.bench.svg import Drawing, Point

_PANEL = 470.0
_PLOT_HEIGHT = 300.0
_TOP, _LEFT, _RIGHT = 84.0, 62.0, 18.0
_LEGEND_LINE = 18.0
_LEGEND_COLUMN = 310.0
_MOST_NINES = 5


@dataclass(frozen=True, slots=True)
class _Panel:
    """A plot: where it stands and what its axes mean."""

    drawing: Drawing
    left: float
    x: Callable[[float], float]
    y: LogScale

    @property
    def width(self) -> float:
        return _PANEL - _LEFT - _RIGHT

    def point(self, x: float, y: float) -> Point:
        return (
            self.left + _LEFT + self.x(x) * self.width,
            _TOP + (1 - self.y(y)) * _PLOT_HEIGHT,
        )

    def frame(self, title: str, x_name: str, x_ticks: Sequence[tuple[float, str]]) -> None:
        """Grid, axes, ticks and names."""
        draw, left, bottom = self.drawing, self.left + _LEFT, _TOP + _PLOT_HEIGHT
        right = left + self.width
        draw.text((left, _TOP - 14), title, style="head")
        for tick in self.y.ticks():
            y = self.point(0, tick)[1]
            draw.line((left, y), (right, y), "grid")
            draw.text((left - 7, y + 4), short(tick), anchor="end")
        for at, label in x_ticks:
            x = left + self.x(at) * self.width
            draw.line((x, _TOP), (x, bottom), "grid")
            draw.text((x, bottom + 18), label, anchor="middle")
        draw.line((left, bottom), (right, bottom), "axis")
        draw.line((left, _TOP), (left, bottom), "axis")
        draw.text(((left + right) / 2, bottom + 40), x_name, anchor="middle", style="soft")
        middle = _TOP + _PLOT_HEIGHT / 2
        name = "latency, ms (logarithmic)"
        draw.text((self.left + 16, middle), name, anchor="middle", style="soft", turn=True)


def chart(rows: Sequence[Summary], labels: Sequence[str], title: str) -> str:
    """The picture as SVG; `labels` name the rows. With one row there is no second panel."""
    found = [(row, label) for row, label in zip(rows, labels, strict=True) if row.requests]
    two = len(found) > 1
    width = _PANEL * (2 if two else 1) + 20
    columns = max(int((width - 40) // _LEGEND_COLUMN), 1)
    lines = -(-len(found) // columns)
    height = _TOP + _PLOT_HEIGHT + 62 + lines * _LEGEND_LINE + 10
    drawing = Drawing(width, height, f"Latency and throughput: {title}")
    drawing.text((20, 32), title, style="title")
    if not found:
        drawing.text((20, _TOP), "no request succeeded")
        return str(drawing)
    _percentiles(drawing, found)
    if two:
        _throughput(drawing, found)
    _legend(drawing, found, columns)
    return str(drawing)


def _percentiles(drawing: Drawing, found: Sequence[tuple[Summary, str]]) -> None:
    most = max(row.requests for row, _ in found)
    nines = min(max(len(str(most)) - 1, 2), _MOST_NINES)
    curves = [_curve(row, nines) for row, _ in found]
    x = NinesScale(nines)
    panel = _Panel(drawing, 0, x, around([ms for curve in curves for _, ms in curve]))
    ticks = [(share, f"{short(round(share * 100, 6))}%") for share in x.ticks()]
    panel.frame("Latency by percentile", "share of requests that took no longer", ticks)
    for number, curve in enumerate(curves):
        drawing.curve([panel.point(share, ms) for share, ms in curve], number)


def _curve(row: Summary, nines: int) -> list[tuple[float, float]]:
    """As far as the number of requests says anything."""
    end = 1 - 1 / max(row.requests, 2)
    curve = [(share, ms) for share, ms in row.latency_curve if share < end and ms > 0]
    curve.append((end, row.max_ms))
    return [(share, ms) for share, ms in curve if share <= 1 - 10.0**-nines * 0.999]


_KINDS: tuple[tuple[str, Callable[[Summary], float]], ...] = (
    ("p50", lambda row: row.p50_ms),
    ("p99", lambda row: row.p99_ms),
)


def _throughput(drawing: Drawing, found: Sequence[tuple[Summary, str]]) -> None:
    ordered = sorted(found, key=lambda each: each[0].rate or each[0].concurrency or 0)
    x = LinearScale(max(row.requests_per_s for row, _ in found) * 1.08)
    y = around([read(row) for row, _ in found for _, read in _KINDS])
    panel = _Panel(drawing, _PANEL, x, y)
    ticks = [(tick, amount(tick) if tick else "0") for tick in x.ticks()]
    panel.frame("Latency over throughput", "requests answered a second", ticks)
    for colour, (name, read) in enumerate(_KINDS):
        points = [panel.point(row.requests_per_s, read(row)) for row, _ in ordered]
        drawing.curve(points, colour, faint=colour == 0)
        for (row, label), at in zip(ordered, points, strict=True):
            text = f"{label}: {row.requests_per_s:,.0f} req/s, {name} {duration(read(row))}"
            drawing.dot(at, colour, hollow=not row.kept, label=text)
            if name == "p99":
                load = amount(row.rate or row.concurrency or 0)
                drawing.text((at[0], at[1] - 9), load, anchor="middle", style="tag")
    _kinds(panel, hollow=not all(row.kept for row, _ in found))


def _kinds(panel: _Panel, hollow: bool) -> None:
    """What the lines, the numbers and the hollow points of the second panel are."""
    left, top = panel.left + _LEFT + 14, _TOP + 18
    for line, (name, _) in enumerate(_KINDS):
        at = left, top + (1 - line) * _LEGEND_LINE
        panel.drawing.curve([at, (left + 24, at[1])], line, faint=line == 0)
        panel.drawing.text((left + 32, at[1] + 4), name)
    notes = ["numbers: the load", *(["hollow: rate not kept"] if hollow else [])]
    for line, note in enumerate(notes, len(_KINDS)):
        panel.drawing.text((left, top + line * _LEGEND_LINE + 4), note, style="soft")


def _legend(drawing: Drawing, found: Sequence[tuple[Summary, str]], columns: int) -> None:
    top = _TOP + _PLOT_HEIGHT + 70
    for number, (row, label) in enumerate(found):
        line, column = divmod(number, columns)
        x, y = 24 + column * _LEGEND_COLUMN, top + line * _LEGEND_LINE
        drawing.curve([(x, y - 4), (x + 22, y - 4)], number)
        text = f"{label}: {row.requests_per_s:,.0f} req/s, p99 {duration(row.p99_ms)}"
        drawing.text((x + 30, y), text)
