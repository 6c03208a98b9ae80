"""Images as a step of an ensemble: decoded ones of any size in, what a network takes out.

Requests with images of different sizes share a batch; the kernel reads them where they lie, in one
launch.
"""

from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel
from penstock_kernels.image import IMAGE_NORMALISE, normalisation
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.kernel.form import Declared, Form, Step, Tabled
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, kernel_dtype
from penstock_runtime.config import BatchInput, ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument

IMAGE, SHAPES, PIXELS = "IMAGE", "IMAGE_SHAPE", "PIXELS"
START, SIZE, SCALE, SHIFT = "IMAGE_START", "IMAGE_SIZE", "SCALE", "SHIFT"
_TYPES = (DataType.FP16, DataType.FP32, DataType.BF16)
_LONGEST_SIDE = 16384
_CHANNELS = 3


class NormaliseImages(Tabled):
    """Resizes, normalises and puts the channels first."""

    kernel: Kernel = IMAGE_NORMALISE

    def __init__(self, options: Options) -> None:
        self._size = _size(options)
        self._dtype = kernel_dtype(_datatype(options))
        mean = options.numbers("mean", "0", _CHANNELS)
        deviation = options.numbers("deviation", "1", _CHANNELS)
        if not all(deviation):
            raise options.refuse("has a deviation of 0", "numbers to divide by")
        self._scale, self._shift = normalisation(mean, deviation)

    def tables(self, told: Arrays) -> dict[str, Any]:
        """Where each image begins and its size, and what its channels are multiplied by and added
        to.
        """
        sizes = np.asarray(told[SHAPES], np.int64)
        check_sizes(sizes)
        ends = sizes.prod(axis=1).cumsum()
        return {
            START: np.concatenate([[0], ends[:-1]]),
            SIZE: sizes[:, :2].astype(np.int32),
            SCALE: self._scale,
            SHIFT: self._shift,
        }

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The images of one batch, which lie one behind the other."""
        batched = SHAPES in inputs
        told = inputs if batched else {SHAPES: np.array([inputs[IMAGE].shape])}
        # Where the batch was put together on a device, they came with it.
        tables = inputs if START in inputs else self.tables(told)
        out = place.empty((told[SHAPES].shape[0], _CHANNELS, *self._size), self._dtype)
        place.run(
            self.kernel,
            slab=place.take(inputs[IMAGE].reshape(-1), np.dtype(np.uint8)),
            start=place.take(tables[START], np.dtype(np.int64)),
            size=place.take(tables[SIZE], np.dtype(np.int32)),
            scale=place.take(tables[SCALE], np.dtype(np.float32)),
            shift=place.take(tables[SHIFT], np.dtype(np.float32)),
            out=out,
        )
        return {PIXELS: out if batched else out[0]}


def check_sizes(sizes: AnyArray) -> None:
    """Refuse images without a pixel, and those that are no images of three channels."""
    for height, width, channels in sizes.tolist():
        if channels != _CHANNELS or not (
            0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE
        ):
            raise InvalidArgument(
                f"input '{IMAGE}' is an image of {height} x {width} x {channels}, expected sides"
                f" of 1 to {_LONGEST_SIDE} and {_CHANNELS} channels"
            )


def _size(options: Options) -> tuple[int, int]:
    height = options.integer("height", None, 1, _LONGEST_SIDE)
    return height, options.integer("width", height, 1, _LONGEST_SIDE)


def _datatype(options: Options) -> DataType:
    return options.datatype("datatype", DataType.FP16, _TYPES)


def _declare(options: Options, config: ModelConfig) -> Declared:
    batched = config.max_batch_size > 0
    image = ModelInput(IMAGE, DataType.UINT8, (-1, -1, _CHANNELS), allow_ragged_batch=batched)
    pixels = ModelOutput(PIXELS, _datatype(options), (_CHANNELS, *_size(options)))
    told = BatchInput("BATCH_ITEM_SHAPE", (SHAPES,), DataType.INT32, (IMAGE,))
    return Declared((image,), (pixels,), (told,) if batched else ())


def _make(options: Options, source: ModelSource) -> Step:  # noqa: ARG001 - every form's
    return NormaliseImages(options)


FORM = Form(("height", "width", "mean", "deviation", "datatype"), _declare, _make)
