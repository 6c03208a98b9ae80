"""A roofline as SVG: how many operations a second kernels do, over how many they do for a byte."""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.bench.scales import LogScale
from penstock.bench.svg import Drawing, Point

_WIDTH, _HEIGHT, _LEFT, _TOP = 620.0, 380.0, 80.0, 70.0


@dataclass(frozen=True, slots=True)
class Mark:
    """One kernel: operations for a byte, and operations a second."""

    label: str
    intensity: float
    rate: float


def roofline(marks: Sequence[Mark], bandwidth: float, rate: float, title: str) -> str:
    """Marks under the roof of a machine's bytes and operations a second."""
    x = LogScale(0.05, max(4 * rate / bandwidth, 100.0))
    y = LogScale(0.02 * bandwidth, rate * 2)
    legend = _TOP + _HEIGHT + 60
    drawing = Drawing(_LEFT + _WIDTH + 30, legend + 18 * (len(marks) // 2 + 1), title)

    def place(intensity: float, per_s: float) -> Point:
        return _LEFT + x(intensity) * _WIDTH, _TOP + (1 - y(per_s)) * _HEIGHT

    drawing.text((20, 32), title, style="title")
    _axes(drawing, x, y)
    knee = rate / bandwidth
    roof = [(x.low, x.low * bandwidth), (knee, rate), (x.high, rate)]
    drawing.curve([place(*point) for point in roof], 0)
    for number, mark in enumerate(marks):
        label = f"{mark.label}: {mark.rate / 1e12:.2f} TFLOP/s"
        drawing.dot(place(mark.intensity, mark.rate), number + 1, label=label)
        at = (_LEFT + number % 2 * 320, legend + number // 2 * 18)
        drawing.dot((at[0], at[1] - 4), number + 1)
        drawing.text((at[0] + 10, at[1]), mark.label)
    return str(drawing)


def _axes(drawing: Drawing, x: LogScale, y: LogScale) -> None:
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    for tick in x.ticks():
        at = _LEFT + x(tick) * _WIDTH
        drawing.line((at, _TOP), (at, bottom), "grid")
        drawing.text((at, bottom + 18), f"{tick:g}", anchor="middle")
    for tick in y.ticks():
        at = _TOP + (1 - y(tick)) * _HEIGHT
        drawing.line((_LEFT, at), (right, at), "grid")
        drawing.text((_LEFT - 7, at + 4), f"{tick / 1e12:g}", anchor="end")
    drawing.text(((_LEFT + right) / 2, bottom + 38), "operations per byte", anchor="middle")
    drawing.text((20, _TOP - 12), "TFLOP/s", style="soft")
