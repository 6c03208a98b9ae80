"""The latency of streams as a picture: how long to the first token, and from piece to piece, for
which share of them; a curve for each server.
"""

from collections.abc import Mapping, Sequence

from benchmarks.llm.latency import Times

from penstock.bench.scales import LogScale, NinesScale, around, short
from penstock.bench.svg import Drawing

_PANEL, _TOP, _PLOT_HEIGHT = 420.0, 92.0, 220.0
_LEFT, _RIGHT, _FOOT = 66.0, 20.0, 92.0
_NINES = 3.0
_SHARES = tuple(number / 1000 for number in range(5, 1000, 5))
Curve = list[tuple[float, float]]


def picture(found: Mapping[str, Times], title: str) -> str:
    """The SVG."""
    drawing = Drawing(2 * _PANEL + 20, _TOP + _PLOT_HEIGHT + _FOOT, title)
    drawing.text((20, 32), title, style="title")
    firsts = {server: _curve(times.first_s) for server, times in found.items()}
    gaps = {server: _curve(times.gaps_s) for server, times in found.items()}
    panels = {
        "Time to the first token, from when it was due": firsts,
        "Between two pieces of an answer": gaps,
    }
    for number, (name, curves) in enumerate(panels.items()):
        _panel(drawing, number * _PANEL, name, {key: c for key, c in curves.items() if c})
    for colour, server in enumerate(found):
        left, y = 20 + _LEFT + colour * 200, _TOP + _PLOT_HEIGHT + _FOOT - 18
        drawing.curve([(left, y), (left + 24, y)], colour)
        drawing.text((left + 32, y + 4), server)
    return str(drawing)


def _curve(values: Sequence[float]) -> Curve:
    """Share and milliseconds, as far as the number of values says anything."""
    ordered = sorted(values)
    last = 1 - 1 / max(len(ordered), 1)
    return [(s, max(ordered[int(s * len(ordered))], 1e-6) * 1e3) for s in _SHARES if s <= last]


def _panel(drawing: Drawing, left: float, name: str, curves: Mapping[str, Curve]) -> None:
    if not curves:
        return
    x, y = NinesScale(_NINES), around([ms for curve in curves.values() for _, ms in curve])
    start, width, bottom = left + _LEFT, _PANEL - _LEFT - _RIGHT, _TOP + _PLOT_HEIGHT
    drawing.text((start, _TOP - 14), f"{name}, ms", style="head")
    _grid(drawing, (start, width), x, y)
    drawing.line((start, bottom), (start + width, bottom), "axis")
    for colour, curve in enumerate(curves.values()):
        places = [(start + x(s) * width, _TOP + (1 - y(ms)) * _PLOT_HEIGHT) for s, ms in curve]
        drawing.curve(places, colour)


def _grid(drawing: Drawing, across: tuple[float, float], x: NinesScale, y: LogScale) -> None:
    start, width = across
    bottom = _TOP + _PLOT_HEIGHT
    for tick in y.ticks():
        at = _TOP + (1 - y(tick)) * _PLOT_HEIGHT
        drawing.line((start, at), (start + width, at), "grid")
        drawing.text((start - 7, at + 4), short(tick), anchor="end")
    for share in x.ticks():
        at = start + x(share) * width
        drawing.line((at, _TOP), (at, bottom), "grid")
        drawing.text((at, bottom + 18), f"{short(round(share * 100, 6))}%", anchor="middle")
