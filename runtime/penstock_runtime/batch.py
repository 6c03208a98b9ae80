"""A batch: requests that are executed together, how their inputs become one, how the outputs are
cut back.

A `BatchPlan` is made once per model; merging and splitting then only follow it.
"""

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from penstock_kernels.ragged import cut_length, scatter_rows
from penstock_runtime.batch_merge import make_merge
from penstock_runtime.batch_scatter import ScatteredShapes, broken_output
from penstock_runtime.classification import classified
from penstock_runtime.config import ModelConfig, ModelOutput
from penstock_runtime.datatype import DataType, from_numpy
from penstock_runtime.errors import Internal
from penstock_runtime.labels import NO_LABELS, Labels
from penstock_runtime.request import EMPTY, InferRequest, InferResponse, Parameters, Timing
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import OneOutput
from penstock_runtime.tensor import Tensor, to_host

_MOST_SHAPES = 64
NOTHING_GIVEN: Mapping[str, Sequence[Any]] = MappingProxyType({})


class Batch(NamedTuple):
    """Requests in row order; `rows` is their sum."""

    members: tuple[Pending, ...]
    rows: int

    @property
    def sizes(self) -> list[int]:
        """The rows of each request."""
        return [pending.batch_size for pending in self.members]

    @staticmethod
    def of(members: Sequence[Pending]) -> "Batch":
        """The batch of these requests."""
        if len(members) == 1:
            return Batch((members[0],), members[0].batch_size)
        return Batch(tuple(members), sum(pending.batch_size for pending in members))


class BatchPlan:
    """How one model's batches are merged and split; `labels` are those of its outputs' classes."""

    def __init__(self, config: ModelConfig, version: int, labels: Labels = NO_LABELS) -> None:
        self.config = config
        self._name = config.name
        self._version = str(version)
        self.decoupled = config.decoupled
        self._batched = config.max_batch_size > 0
        self._outputs = {declared.name: declared for declared in config.output}
        self._labels = labels
        rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
        self._lengths = rules
        self._merge = make_merge(config)
        self._shapes = ScatteredShapes(config)
        # Outputs without rows: the content of a shape tensor is one for the whole batch.
        self._whole = frozenset(o.name for o in config.output if o.is_shape_tensor)
        self._uneven = self._whole.union(self._shapes.names)
        # Whether outputs go out as they come: nothing to cut back, nothing to reshape.
        self._plain = (
            rules is None and not self._uneven and all(o.reshape is None for o in config.output)
        )
        # The output of a model that has one only, if it goes out as it comes.
        self._only = config.output[0] if self._plain and len(config.output) == 1 else None
        self._only_dtype: np.dtype[Any] | None = None
        self.only: OneOutput | None = None
        # Shapes that were found to fit it.
        self._fitting: set[tuple[int, ...]] = set()
        if self._only is not None and self._only.data_type is not DataType.BYTES:
            name, datatype = self._only.name, self._only.data_type
            self._only_dtype = datatype.numpy
            self.only = OneOutput(config.name, str(version), name, datatype)

    # -- in --------------------------------------------------------------------------------------

    def merge(self, batch: Batch) -> dict[str, Any]:
        """The model's inputs: every request's rows, one after the other (a view when there is only
        one), or whatever else the declarations ask for; see `batch_merge`.
        """
        return self._merge(batch.members)

    # -- out -------------------------------------------------------------------------------------

    def split(
        self,
        batch: Batch,
        outputs: Mapping[str, Any],
        parameters: Sequence[Parameters],
        timings: Sequence[Timing | None],
        given: Mapping[str, Sequence[Any]] = NOTHING_GIVEN,
    ) -> list[InferResponse]:
        """One response per request, in row order; Internal when an output is not what was
        declared. `given` are outputs that have been cut already.
        """
        arrays = {
            name: to_host(outputs[name])
            for name in outputs
            if name in self._outputs and name not in given
        }
        if self._batched:
            for name, array in arrays.items():
                if name not in self._uneven:
                    self._check_rows(name, array, batch.rows)
        if len(batch.members) == 1:
            whole = {**arrays, **{name: parts[0] for name, parts in given.items()}}
            return [self._response(batch.members[0], whole, parameters[0], timings[0])]
        return self._scatter(batch, arrays, parameters, timings, given)

    def fits(self, array: Any, rows: int) -> bool:
        """Whether an array of so many rows is, as it is, the output of a model that has `only` one.

        Internal when it is of the right datatype and of the wrong shape.
        """
        declared = self._only
        if declared is None or type(array) is not np.ndarray or array.dtype is not self._only_dtype:
            return False
        shape = array.shape
        if self._batched and (not shape or shape[0] != rows):
            return False
        if shape not in self._fitting:
            self._check_dims(declared, shape)
            if len(self._fitting) >= _MOST_SHAPES:
                self._fitting.clear()
            self._fitting.add(shape)
        return True

    def _scatter(
        self,
        batch: Batch,
        arrays: Mapping[str, Any],
        parameters: Sequence[Parameters],
        timings: Sequence[Timing | None],
        given: Mapping[str, Sequence[Any]],
    ) -> list[InferResponse]:
        rows = batch.sizes
        parts: dict[str, Sequence[Any]] = {
            name: scatter_rows(array, rows)
            if name not in self._uneven
            else self._parts(name, array, batch.members)
            for name, array in arrays.items()
        }
        parts.update(given)
        return [
            self._response(pending, {n: parts[n][i] for n in parts}, parameters[i], timings[i])
            for i, pending in enumerate(batch.members)
        ]

    def _parts(self, name: str, array: Any, members: Sequence[Pending]) -> Sequence[Any]:
        """What each request of the batch gets of an output that has no rows."""
        if name in self._whole:
            return [array] * len(members)
        return self._shapes.scatter(name, array, members)

    def single(
        self, pending: Pending, outputs: Mapping[str, Any], parameters: Parameters
    ) -> InferResponse:
        """One of the responses to a decoupled request; more may come."""
        request = pending.request
        if request.outputs or not self._plain:
            arrays = {name: to_host(outputs[name]) for name in outputs if name in self._outputs}
            return self._response(pending, arrays, parameters, None, final=False)
        tensors = tuple(
            self._tensor(declared, to_host(outputs[name]), pending)
            for name, declared in self._outputs.items()
            if name in outputs
        )
        return InferResponse(
            self._name, self._version, request.id, tensors, parameters or EMPTY, False
        )

    def whole(
        self,
        pending: Pending,
        outputs: Mapping[str, Any],
        parameters: Parameters,
        timing: Timing | None,
    ) -> InferResponse:
        """The one response to a request, of outputs that are its own; Internal when an output is
        not what was declared.
        """
        arrays = {name: to_host(outputs[name]) for name in outputs if name in self._outputs}
        return self._response(pending, arrays, parameters, timing)

    def last(self, pending: Pending, timing: Timing | None) -> InferResponse:
        """The response without outputs that ends a decoupled request."""
        return InferResponse(
            self._name, self._version, pending.request.id, empty=True, timing=timing
        )

    def _response(
        self,
        pending: Pending,
        arrays: Mapping[str, Any],
        parameters: Parameters,
        timing: Timing | None,
        final: bool = True,
    ) -> InferResponse:
        request = pending.request
        wanted = [o.name for o in request.outputs] if request.outputs else self._outputs
        tensors: list[Tensor] = []
        for name in wanted:
            if name in arrays:
                tensors.append(self._tensor(self._outputs[name], arrays[name], pending))
            elif final:
                raise self._broken(name, "is missing", "every declared output")
        return InferResponse(
            self._name,
            self._version,
            request.id,
            self._as_asked(tensors, request) if request.outputs else tuple(tensors),
            parameters or EMPTY,
            final,
            timing=timing,
        )

    def _as_asked(self, tensors: Sequence[Tensor], request: InferRequest) -> tuple[Tensor, ...]:
        # A loop, and no `any`: most requests name their outputs and ask for nothing else.
        for output in request.outputs:
            if output.parameters is not EMPTY:
                return classified(tensors, request.outputs, self._labels, self._batched)
        return tuple(tensors)

    def _tensor(self, declared: ModelOutput, array: Any, pending: Pending) -> Tensor:
        if self._plain and array.dtype == declared.data_type.numpy:
            shape = array.shape
            self._check_dims(declared, shape)
            return Tensor(declared.name, declared.data_type, shape, array)
        if self._lengths is not None and declared.name in self._lengths.unpad_output:
            array = cut_length(array, pending.length, self._unpad_axis(declared))
        wanted = declared.data_type
        # BF16 has no numpy dtype of its own: it travels as uint16 halves.
        if array.dtype != wanted.numpy and from_numpy(array.dtype) is not wanted:
            found = from_numpy(array.dtype).value
            raise self._broken(declared.name, f"is {found}", wanted.value)
        if declared.name in self._shapes.names:
            array = self._shapes.shaped(declared.name, array, pending)
        elif declared.reshape is not None:
            array = array.reshape(self._declared_shape(declared, array))
        self._check_dims(declared, array.shape, declared.name in self._whole)
        return Tensor(declared.name, wanted, tuple(array.shape), array)

    def _declared_shape(self, declared: ModelOutput, array: Any) -> tuple[int, ...]:
        """The shape that clients see of an output that the model gives in another (`reshape`)."""
        first = array.shape[:1] if self._batched and declared.name not in self._whole else ()
        known = prod(first) * prod(dim for dim in declared.dims if dim != -1)
        unknown = declared.dims.count(-1)
        if unknown == 1 and known:
            return (*first, *(array.size // known if d == -1 else d for d in declared.dims))
        if unknown:
            raise self._broken(declared.name, f"has shape {array.shape}", "at most one wildcard")
        return (*first, *declared.dims)

    def _check_dims(self, declared: ModelOutput, shape: Sequence[int], whole: bool = False) -> None:
        batched = self._batched and not whole
        dims, wanted = shape[1:] if batched else shape, declared.dims
        if dims == wanted:
            return
        fits = len(dims) == len(wanted)
        for want, got in zip(wanted, dims, strict=False):
            if want != got and want != -1:
                fits = False
        if not fits:
            full = (-1, *declared.dims) if batched else declared.dims
            raise self._broken(declared.name, f"has shape {list(shape)}", f"{list(full)}")

    def _check_rows(self, name: str, array: Any, rows: int) -> None:
        if not array.shape or array.shape[0] != rows:
            raise self._broken(name, f"has shape {list(array.shape)}", f"{rows} rows")

    def _unpad_axis(self, declared: ModelOutput) -> int:
        first = 1 if self._batched else 0
        return first + (declared.dims.index(-1) if -1 in declared.dims else 0)

    def _broken(self, output: str, found: str, expected: str) -> Internal:
        return broken_output(self._name, output, found, expected)
