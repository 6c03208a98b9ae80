"""Decoded images of any size to one batch: resized, normalised, channels first, in one launch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from penstock_kernels.declare import (
    Kernel,
    Launch,
    Traffic,
    blocks,
    c_name,
    c_type,
    grid,
    instance,
    int32,
)

_THREADS = 128
_DTYPES = ("float16", "bfloat16", "float32")


def normalisation(mean: Any, deviation: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`scale` and `shift` that make (pixel / 255 - mean) / deviation of a byte, for 3 channels."""
    wide = np.asarray(deviation, np.float64)
    scale = 1 / (255 * wide)
    return scale.astype(np.float32), (-np.asarray(mean, np.float64) / wide).astype(np.float32)


def _plan(slab: Any, start: Any, size: Any, scale: Any, shift: Any, out: Any) -> list[Launch]:
    """slab: uint8 [bytes]; start: int64 [images]; size: int32 [images, 2], height and width, both
    at least 1; scale, shift: float32 [3]; out: [images, 3, height, width].
    """
    images, _, height, width = out.shape
    if not out.size:
        return []
    arguments = (slab, start, size, scale, shift, out, int32(height), int32(width))
    where = grid(blocks(width, _THREADS), height, images)
    return [Launch(instance("image_normalise", c_name(out)), where, (_THREADS, 1, 1), arguments)]


def _reference(slab: Any, start: Any, size: Any, scale: Any, shift: Any, out: Any) -> None:
    for begin, (height, width), to in zip(start.tolist(), size.tolist(), out, strict=True):
        pixels = slab[begin : begin + height * width * 3].reshape(height, width, 3)
        resized = _resized(pixels, to.shape[1], to.shape[2])
        to[...] = (resized * scale + shift).transpose(2, 0, 1)


def _resized(pixels: Any, height: int, width: int) -> Any:
    """Bytes [h, w, 3] -> floats [height, width, 3], first along the rows, then the columns."""
    above, below, by_row = _neighbours(pixels.shape[0], height)
    # Of a large image few rows are read at all.
    rows, at = np.unique(np.concatenate([above, below]), return_inverse=True)
    left, right, by = _neighbours(pixels.shape[1], width)
    read = pixels[rows]
    first, second = (read[:, columns].astype(np.float32) for columns in (left, right))
    narrow = first + (second - first) * by[:, None]
    upper, lower = narrow[at[:height]], narrow[at[height:]]
    return upper + (lower - upper) * by_row[:, None, None]


def _neighbours(own: int, wanted: int) -> tuple[Any, Any, Any]:
    """For each of `wanted` points the two of `own` it lies between, and how far from the first."""
    centres = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(own)
    at = np.clip(centres / np.float32(wanted) - np.float32(0.5), 0, own - 1)
    first = at.astype(np.int64)
    return first, np.minimum(first + 1, own - 1), (at - first).astype(np.float32)


def _traffic(slab: Any, start: Any, size: Any, scale: Any, shift: Any, out: Any) -> Traffic:
    own = size.astype(np.int64).prod(axis=1) * 3
    # Of a larger image at most four pixels are read for each one made.
    read = int(np.minimum(own, 12 * out.shape[2] * out.shape[3]).sum())
    return Traffic(read + start.nbytes + size.nbytes + out.nbytes, 8 * out.size)


IMAGE_NORMALISE = Kernel(
    name="image_normalise",
    source="image.cu",
    instances=tuple(instance("image_normalise", c_type(d)) for d in _DTYPES),
    outputs=("out",),
    plan=_plan,
    reference=_reference,
    traffic=_traffic,
)
