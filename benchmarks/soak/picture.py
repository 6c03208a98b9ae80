"""The picture of a soak: memory, connections and calls a second over time, one above the other."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from benchmarks.soak.verdict import Sample

from penstock.bench.scales import LinearScale, amount, short
from penstock.bench.svg import Drawing

_WIDTH, _PANEL = 760.0, 170.0
_PLOT_HEIGHT = 110.0
_LEFT, _RIGHT, _TOP = 70.0, 24.0, 84.0

Line = Sequence[tuple[float, float]]


def picture(samples: Sequence[Sample], title: str) -> str:
    """The picture as SVG."""
    panels = (
        ("Resident memory of the server, MB", _line(samples, lambda one: one.rss_mb)),
        ("Open connections", _line(samples, lambda one: one.connections)),
        ("Calls a second", rates(samples)),
    )
    drawing = Drawing(_WIDTH, _TOP + len(panels) * _PANEL + 10, title)
    drawing.text((20, 32), title, style="title")
    end_s = max((one.at_s for one in samples), default=1.0)
    for number, (name, line) in enumerate(panels):
        _panel(drawing, _TOP + number * _PANEL, name, line, end_s, number)
    drawing.text((_WIDTH / 2, _TOP + len(panels) * _PANEL - 12), "minutes", anchor="middle")
    return str(drawing)


def rates(samples: Sequence[Sample]) -> Line:
    """Calls a second between one look and the next."""
    return [
        (now.at_s, (now.calls - then.calls) / (now.at_s - then.at_s))
        for then, now in pairwise(samples)
        if now.at_s > then.at_s
    ]


def _line(samples: Sequence[Sample], read: Callable[[Sample], float]) -> Line:
    return [(one.at_s, read(one)) for one in samples]


def _panel(drawing: Drawing, top: float, name: str, line: Line, end_s: float, colour: int) -> None:
    width, bottom = _WIDTH - _LEFT - _RIGHT, top + _PLOT_HEIGHT
    x = LinearScale(end_s / 60)
    y = LinearScale(max([value for _, value in line] or [1.0]) * 1.1)
    drawing.text((_LEFT, top - 10), name, style="head")
    for tick in y.ticks(5):
        at = bottom - y(tick) * _PLOT_HEIGHT
        drawing.line((_LEFT, at), (_LEFT + width, at), "grid")
        drawing.text((_LEFT - 7, at + 4), amount(tick) if tick else "0", anchor="end")
    for tick in x.ticks(8):
        at = _LEFT + x(tick) * width
        drawing.line((at, top), (at, bottom), "grid")
        drawing.text((at, bottom + 17), short(tick), anchor="middle")
    drawing.line((_LEFT, bottom), (_LEFT + width, bottom), "axis")
    drawing.line((_LEFT, top), (_LEFT, bottom), "axis")
    points = [(_LEFT + x(s / 60) * width, bottom - y(value) * _PLOT_HEIGHT) for s, value in line]
    drawing.curve(points, colour)
