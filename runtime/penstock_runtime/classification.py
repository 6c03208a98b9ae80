"""The classification extension: of a requested output only the highest values, each as the text
`value:index` or `value:index:label`.

What can be refused before the model is executed is refused there; the texts are Triton's.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from penstock_kernels.topk import top_k
from penstock_runtime.config import ModelOutput
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.labels import Labels
from penstock_runtime.request import EMPTY, RequestedOutput
from penstock_runtime.tensor import Tensor, object_array

# Each may become a text of its own, made where other requests wait to be executed.
MAX_ELEMENTS = 1_000_000

_FLOATS = frozenset({DataType.FP32, DataType.FP64})
_INTEGERS = frozenset(
    {
        DataType.UINT8,
        DataType.UINT16,
        DataType.UINT32,
        DataType.UINT64,
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
    }
)


class Ranked:
    """The highest values of each row and where they are, in the place of an FP32 output that stays
    on its device; `shape` is the output's.
    """

    __slots__ = ("_highest", "_indices", "shape")
    dtype = np.dtype(np.float32)

    def __init__(self, highest: AnyArray, indices: AnyArray, shape: tuple[int, ...]) -> None:
        self._highest = highest
        self._indices = indices
        self.shape = shape

    def top(self, count: int) -> tuple[AnyArray, AnyArray]:
        """So many values and indices of each row, or as many as there are."""
        return self._highest[:, :count], self._indices[:, :count]


def check_classification(
    outputs: Sequence[RequestedOutput], declared: Mapping[str, ModelOutput], rows: int
) -> None:
    """Refuse what the configuration shows to be impossible; `rows` are the request's (1 without a
    batch). InvalidArgument.
    """
    for output in outputs:
        if output.parameters is EMPTY or not output.classes:
            continue
        datatype, dims = declared[output.name].data_type, declared[output.name].dims
        if datatype not in _FLOATS and datatype not in _INTEGERS:
            text = "class result not available for output due to unsupported type"
            raise _refusal(f"{text} '{datatype.value}'", output.name)
        # Where a dimension is open, only the answer shows the size.
        if -1 not in dims:
            _check_size(output.name, rows * prod(dims))


def classified(
    tensors: Sequence[Tensor], outputs: Sequence[RequestedOutput], labels: Labels, batched: bool
) -> tuple[Tensor, ...]:
    """The tensors of a response, those as classes for which the request asks so."""
    counts = {output.name: output.classes for output in outputs}
    return tuple(
        classes_of(tensor, counts[tensor.name], labels.get(tensor.name, ()), batched)
        if counts[tensor.name]
        else tensor
        for tensor in tensors
    )


def classes_of(tensor: Tensor, count: int, labels: Sequence[bytes], batched: bool) -> Tensor:
    """The highest `count` values of each row as BYTES of shape [rows, min(count, n)], without the
    rows if not `batched`.

    A row is flattened, so that an index counts its n elements in row-major order. A class has the
    label of its index, if there is one and it is not empty.
    """
    _check_size(tensor.name, tensor.elements)
    first = tensor.shape[:1] if batched else ()
    if type(tensor.array) is Ranked:
        highest, indices = tensor.array.top(count)
    else:
        values = tensor.numpy().reshape((prod(first), prod(tensor.shape[len(first) :])))
        indices = top_k(values, count)
        highest = np.take_along_axis(values, indices, axis=1)
    # As C++ prints them: six decimals however large or small the number is.
    form = b"%f:%d" if tensor.datatype in _FLOATS else b"%d:%d"
    texts = [
        form % pair for pair in zip(highest.ravel().tolist(), indices.ravel().tolist(), strict=True)
    ]
    if labels:
        texts = _labelled(texts, indices.ravel().tolist(), labels)
    shape = (*first, indices.shape[1])
    return Tensor(tensor.name, DataType.BYTES, shape, object_array(texts).reshape(shape))


def _labelled(texts: list[bytes], indices: list[int], labels: Sequence[bytes]) -> list[bytes]:
    known = len(labels)
    return [
        b"%b:%b" % (text, labels[index]) if index < known and labels[index] else text
        for text, index in zip(texts, indices, strict=True)
    ]


def _check_size(name: str, elements: int) -> None:
    if elements > MAX_ELEMENTS:
        raise _refusal("classification output tensor too large", name)


def _refusal(text: str, name: str) -> InvalidArgument:
    return InvalidArgument(text, violations=(Violation(f"outputs[{name}]", text),))
