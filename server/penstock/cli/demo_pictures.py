"""Small grey images as text, side by side with a caption below each. Pure."""

from collections.abc import Sequence

from penstock_runtime.datatype import AnyArray

SHADES = " ░▒▓█"
_GAP = "  "


def picture(image: AnyArray, brightest: float) -> list[str]:
    """The rows of one image [height, width] of values from 0 to `brightest`.

    A point is two characters wide, which makes it about square.
    """
    steps = (image.clip(0, brightest) / brightest * (len(SHADES) - 1)).round().astype(int)
    return ["".join(SHADES[step] * 2 for step in row) for row in steps.tolist()]


def gallery(
    images: Sequence[AnyArray], captions: Sequence[str], brightest: float, across: int = 5
) -> str:
    """Images of one size, `across` in a row, each over its caption."""
    rows = []
    for begin in range(0, len(images), across):
        pictures = [picture(image, brightest) for image in images[begin : begin + across]]
        width = len(pictures[0][0])
        below = [caption.center(width) for caption in captions[begin : begin + across]]
        lines = [*zip(*pictures, strict=True), below]
        rows.append("\n".join(_GAP.join(parts).rstrip() for parts in lines))
    return "\n\n".join(rows)
