"""The comparison as a picture: for each case a bar for each server, from 1 (what Triton does) to
how many times that it does, on a logarithmic axis; a mark where the floor is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.side_by_side.cases import PEERS, TRITON, Case, Figure
from benchmarks.side_by_side.readings import Reading, ratio
from benchmarks.side_by_side.tables import Result, times

from penstock.bench.scales import LogScale, amount, around, duration, short
from penstock.bench.svg import Drawing

_LEFT, _PLOT, _RIGHT = 150.0, 580.0, 130.0
_TOP, _BOTTOM = 96.0, 44.0
_BAR, _ROW, _HEAD, _GAP = 12.0, 18.0, 20.0, 12.0
_FLOOR = 5
_COLOURS = {peer: number for number, peer in enumerate(PEERS)}


@dataclass(frozen=True, slots=True)
class Bar:
    """A server, how many times Triton it is, what that is in figures, and where its floor is."""

    peer: str
    ratio: float
    value: str
    floor: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """One figure of one case."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> float:
        """Pixels."""
        return _HEAD + len(self.bars) * _ROW + _GAP


def groups_of(results: Sequence[Result]) -> list[Group]:
    """The bars of every case that Triton took part in."""
    found = []
    for result in results:
        case, medians = result.case, result.medians
        figures = dict.fromkeys([case.figure, *(each.figure for each in case.floors)])
        for figure in figures:
            bars = [
                Bar(peer, times_triton, _value(figure, median), _floor(case, figure, peer))
                for peer, median in medians.items()
                if peer != TRITON
                and (times_triton := ratio(figure, median, medians.get(TRITON))) is not None
            ]
            if bars:
                theirs = _value(figure, medians[TRITON])
                found.append(Group(f"{_title(case, figure)} (Triton {theirs})", bars))
    return found


def _title(case: Case, figure: Figure) -> str:
    title = case.title[0].upper() + case.title[1:]
    return f"{title}: {figure.label}{', lower is better' if figure.less else ''}"


def _value(figure: Figure, median: Reading) -> str:
    value = median.of(figure)
    return duration(value) if figure.less else amount(value)


def _floor(case: Case, figure: Figure, peer: str) -> float | None:
    """The floor of this server against Triton."""
    floors = [each for each in case.floors if (each.ours, each.figure) == (peer, figure)]
    return next((each.bound for each in floors if each.against == TRITON), None)


def picture(results: Sequence[Result], machine: str) -> str:
    """The SVG."""
    groups = groups_of(results)
    height = _TOP + sum(group.height for group in groups) + _BOTTOM
    title = "penstock beside Triton: how many times as much"
    drawing = Drawing(_LEFT + _PLOT + _RIGHT, height, title)
    drawing.text((20, 32), title, style="title")
    rule = "Bars begin at what Triton does, on a logarithmic scale. A red line is a floor."
    drawing.text((20, 52), f"{rule} {machine}", style="soft")
    ratios = [each.ratio for group in groups for each in group.bars]
    floors = [each.floor for group in groups for each in group.bars if each.floor]
    x = around([1.0, *ratios, *floors])
    _axis(drawing, x, height)
    y = _TOP
    for group in groups:
        _draw(drawing, group, x, y)
        y += group.height
    return str(drawing)


def _axis(drawing: Drawing, x: LogScale, height: float) -> None:
    """The round ratios, above and below."""
    for tick in x.ticks():
        at = _LEFT + x(tick) * _PLOT
        for y in (_TOP - 14, height - _BOTTOM + 18):
            drawing.text((at, y), f"{short(tick)}x", anchor="middle", style="soft")


def _draw(drawing: Drawing, group: Group, x: LogScale, top: float) -> None:
    drawing.text((20, top + 14), group.title, style="head")
    for tick in x.ticks():
        at, style = _LEFT + x(tick) * _PLOT, "axis" if tick == 1 else "grid"
        drawing.line((at, top + _HEAD), (at, top + group.height - _GAP), style)
    for number, bar in enumerate(group.bars):
        y = top + _HEAD + number * _ROW
        start, end = sorted((_LEFT + x(1.0) * _PLOT, _LEFT + x(bar.ratio) * _PLOT))
        label = f"{bar.peer}: {times(bar.ratio)} Triton, {bar.value}"
        size = max(end - start, 1.0), _BAR
        drawing.bar((start, y + 3), size, _COLOURS[bar.peer], label)
        drawing.text((_LEFT - 10, y + 13), bar.peer, anchor="end")
        drawing.text((_LEFT + _PLOT + 66, y + 13), times(bar.ratio), anchor="end")
        drawing.text((_LEFT + _PLOT + 78, y + 13), bar.value, style="soft")
        if bar.floor:
            at = _LEFT + x(bar.floor) * _PLOT
            drawing.curve([(at, y), (at, y + _ROW)], _FLOOR)
