"""Sentence embeddings as a step of an ensemble: the states of tokens in, one vector for each text.

The mask may be an input, or come from length batching (`mask_name: "MASK"`); without one every
token counts.
"""

from typing import Any

import numpy as np

from penstock_kernels.declare import Kernel
from penstock_kernels.pool import MEAN_POOL
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.kernel.form import Declared, Form, Step
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, kernel_dtype
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument

STATES, MASK, EMBEDDING = "STATES", "MASK", "EMBEDDING"
_TYPES = (DataType.FP32, DataType.FP16, DataType.BF16)
_MASKS = (DataType.INT64, DataType.INT32)
# What a block's shared memory holds of one row.
_WIDEST = 12_032


class MeanPool:
    """The mean of each row's tokens, of length one if asked."""

    kernel: Kernel = MEAN_POOL

    def __init__(self, options: Options, batched: bool) -> None:
        self._states = kernel_dtype(_datatype(options))
        self._mask = _mask(options).numpy
        self._normalise = options.flag("normalise", True)
        self._batched = batched

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The vectors of one batch."""
        states = place.take(inputs[STATES], self._states)
        given = inputs.get(MASK)
        mask = np.ones(inputs[STATES].shape[:-1], self._mask) if given is None else given
        if tuple(mask.shape) != tuple(states.shape[:-1]):
            raise InvalidArgument(
                f"input '{MASK}' has shape {list(mask.shape)}, expected that of the tokens,"
                f" {list(states.shape[:-1])}"
            )
        mask = place.take(mask, self._mask)
        if not self._batched:
            states, mask = states[None], mask[None]
        out = place.empty((states.shape[0], states.shape[2]), np.dtype(np.float32))
        place.run(self.kernel, states=states, mask=mask, out=out, normalise=self._normalise)
        return {EMBEDDING: out if self._batched else out[0]}


def _datatype(options: Options) -> DataType:
    return options.datatype("datatype", DataType.FP32, _TYPES)


def _mask(options: Options) -> DataType:
    return options.datatype("mask", DataType.INT64, _MASKS)


def _declare(options: Options, config: ModelConfig) -> Declared:  # noqa: ARG001 - every form's
    width = options.integer("width", None, 1, _WIDEST)
    states = ModelInput(STATES, _datatype(options), (-1, width))
    mask = ModelInput(MASK, _mask(options), (-1,), optional=True)
    return Declared((states, mask), (ModelOutput(EMBEDDING, DataType.FP32, (width,)),))


def _make(options: Options, source: ModelSource) -> Step:
    return MeanPool(options, source.config.max_batch_size > 0)


FORM = Form(("width", "normalise", "datatype", "mask"), _declare, _make)
