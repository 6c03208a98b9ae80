"""A drawing as SVG text that is readable on light and on dark pages. Knows nothing of what is
drawn.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

Point = tuple[float, float]

# Colours that the colour-blind can tell apart, for light and for dark paper.
_LIGHT = ("#0067a5", "#c4501b", "#1d8348", "#8e44ad", "#a07400", "#c2185b", "#00838f", "#5d6d7e")
_DARK = ("#5ab4f0", "#f59a6b", "#5fd38d", "#c79be0", "#e6c04c", "#f48fb1", "#4dd0e1", "#b8c4ce")
COLOURS = len(_LIGHT)

_STYLE = """\
text{{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#24292f}}
.title{{font-size:16px;font-weight:600}} .head{{font-size:13px;font-weight:600}}
.soft,.tag{{fill:#57606a}} .page{{fill:#ffffff}}
.tag{{paint-order:stroke;stroke:#ffffff;stroke-width:3}}
.grid{{stroke:#d8dee4;stroke-width:1}} .axis{{stroke:#57606a;stroke-width:1}}
.curve{{fill:none;stroke-width:2;stroke-linejoin:round}} .faint{{stroke-dasharray:5 4}}
{light}
@media (prefers-color-scheme:dark){{
text{{fill:#e6edf3}} .soft,.tag{{fill:#9da7b3}} .page{{fill:#0d1117}}
.tag{{stroke:#0d1117}}
.grid{{stroke:#2b323b}} .axis{{stroke:#9da7b3}}
{dark}
}}
"""


def _colours(colours: Sequence[str], page: str) -> str:
    return "\n".join(
        f".s{i}{{stroke:{colour}}} .f{i}{{fill:{colour};stroke:{colour}}} "
        f".h{i}{{fill:{page};stroke:{colour};stroke-width:2}}"
        for i, colour in enumerate(colours)
    )


class Drawing:
    """Collects shapes; coordinates are pixels from the top left."""

    def __init__(self, width: float, height: float, description: str) -> None:
        self._size = width, height
        self._description = description
        self._shapes: list[str] = []

    def line(self, start: Point, end: Point, style: str) -> None:
        """A straight line."""
        (x1, y1), (x2, y2) = start, end
        self._shapes.append(
            f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def curve(self, points: Sequence[Point], colour: int, faint: bool = False) -> None:
        """Points joined by lines."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f"curve s{colour % COLOURS}{' faint' if faint else ''}"
        self._shapes.append(f'<polyline class="{style}" points="{path}"/>')

    def dot(self, at: Point, colour: int, hollow: bool = False, label: str = "") -> None:
        """A point; `label` is shown when the mouse rests on it."""
        style = f"{'h' if hollow else 'f'}{colour % COLOURS}"
        title = f"<title>{escape(label)}</title>" if label else ""
        self._shapes.append(
            f'<circle class="{style}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4">{title}</circle>'
        )

    def bar(self, corner: Point, size: Point, colour: int, label: str = "") -> None:
        """A filled box from its top left corner; `label` is shown when the mouse rests on it."""
        (x, y), (width, height) = corner, size
        title = f"<title>{escape(label)}</title>" if label else ""
        self._shapes.append(
            f'<rect class="f{colour % COLOURS}" x="{x:.1f}" y="{y:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}">{title}</rect>'
        )

    def text(
        self, at: Point, text: str, *, anchor: str = "start", style: str = "", turn: bool = False
    ) -> None:
        """Text; `anchor` says which end of it stands at the point; turned, it reads upwards."""
        x, y = at
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
        named = f' class="{style}"' if style else ""
        self._shapes.append(
            f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>'
            f"{escape(text)}</text>"
        )

    def __str__(self) -> str:
        width, height = self._size
        style = _STYLE.format(light=_colours(_LIGHT, "#ffffff"), dark=_colours(_DARK, "#0d1117"))
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
                f'width="{width:g}" height="{height:g}" role="img">',
                f"<title>{escape(self._description)}</title>",
                f"<style>\n{style}</style>",
                f'<rect class="page" width="{width:g}" height="{height:g}"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )
