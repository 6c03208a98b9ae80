"""The best classes as a step of an ensemble: scores in; the highest, where they are and what they
are called out.
"""

from typing import Any

import numpy as np

from penstock_kernels.classify import TOP_K
from penstock_kernels.declare import Kernel
from penstock_runtime.backends.base import Arrays, ModelSource
from penstock_runtime.backends.kernel.form import Declared, Form, Step
from penstock_runtime.backends.kernel.options import Options
from penstock_runtime.backends.kernel.place import Place, kernel_dtype
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.labels import read_label_file
from penstock_runtime.tensor import object_array, to_host

VALUES, SCORES, INDICES, LABELS = "VALUES", "SCORES", "INDICES", "LABELS"
_TYPES = (DataType.FP32, DataType.FP16, DataType.BF16)
_MOST = 1024


class BestClasses:
    """The k highest of each row, as probabilities if asked, with the names of `labels`."""

    kernel: Kernel = TOP_K

    def __init__(self, options: Options, batched: bool, labels: tuple[bytes, ...]) -> None:
        self._k = _count(options)
        self._softmax = options.flag("softmax", True)
        self._dtype = kernel_dtype(_datatype(options))
        self._batched = batched
        self._labels = object_array(list(labels)) if labels else None

    def run(self, inputs: Arrays, place: Place) -> dict[str, Any]:
        """The classes of one batch; ValueError where there are fewer than k."""
        values = place.take(inputs[VALUES], self._dtype)
        rows = values if self._batched else values[None]
        scores = place.empty((rows.shape[0], self._k), np.dtype(np.float32))
        columns = place.empty(scores.shape, np.dtype(np.int32))
        place.run(self.kernel, values=rows, scores=scores, columns=columns, softmax=self._softmax)
        found = {SCORES: scores, INDICES: columns}
        if self._labels is not None:
            found[LABELS] = self._named(to_host(columns), self._labels)
        return found if self._batched else {name: array[0] for name, array in found.items()}

    @staticmethod
    def _named(columns: AnyArray, labels: AnyArray) -> AnyArray:
        if columns.size and columns.max() >= len(labels):
            raise InvalidArgument(
                f"input '{VALUES}' has a class {columns.max()}, but the label file has"
                f" {len(labels)} lines"
            )
        return labels[columns]


def _count(options: Options) -> int:
    return options.integer("k", 5, 1, _MOST)


def _datatype(options: Options) -> DataType:
    return options.datatype("datatype", DataType.FP32, _TYPES)


def _declare(options: Options, config: ModelConfig) -> Declared:  # noqa: ARG001 - every form's
    shape = (_count(options),)
    outputs = [
        ModelOutput(SCORES, DataType.FP32, shape),
        ModelOutput(INDICES, DataType.INT32, shape),
    ]
    if options.text("labels"):
        outputs.append(ModelOutput(LABELS, DataType.BYTES, shape))
    return Declared((ModelInput(VALUES, _datatype(options), (-1,)),), tuple(outputs))


def _make(options: Options, source: ModelSource) -> Step:
    name = options.text("labels")
    labels = read_label_file(source.config.name, LABELS, name, source.root) if name else ()
    return BestClasses(options, source.config.max_batch_size > 0, labels)


FORM = Form(("k", "softmax", "labels", "datatype"), _declare, _make)
