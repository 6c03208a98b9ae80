"""A request held against its model's configuration, with the texts that Triton's clients match on.

A validator is made once per model; it checks names, datatypes, shapes and sizes, turns wire bytes
into views, applies `reshape`, and says how many rows the request has and with what it may share a
batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from penstock_runtime.classification import check_classification
from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.datatype import DataType
from penstock_runtime.input_arrays import array_of, dims_text, refuse
from penstock_runtime.plain_inputs import PlainArrays, PlainInputs
from penstock_runtime.request import InferRequest
from penstock_runtime.tensor import Tensor

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be "
    "prepended to each input shape. If you want to specify the full shape including the batch dim "
    "in your input dims config, try setting max_batch_size to zero. See the model configuration "
    "docs for more info on max_batch_size."
)


_MOST_KNOWN = 256

Known = tuple[int, Any, int, dict[str, tuple[int, ...]] | None]
"""Rows, signature, length, and the shapes of the arrays where they are not those of the request."""


class Checked(NamedTuple):
    """A request that fits its model: arrays by input name (views where possible), its rows, what it
    may share a batch with, its length.
    """

    arrays: dict[str, Any]
    rows: int
    signature: Any
    length: int


class RequestValidator:
    """Checks requests against one configuration."""

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._max_batch = config.max_batch_size
        self._inputs = {declared.name: declared for declared in config.input}
        self._outputs = {declared.name: declared for declared in config.output}
        self._required = frozenset(d.name for d in config.input if not d.optional)
        rules = config.dynamic_batching.length_batching if config.dynamic_batching else None
        self._by_length = frozenset(rules.input) if rules else frozenset[str]()
        self._ragged = frozenset(d.name for d in config.input if d.allow_ragged_batch)
        # Without a batcher no request shares its batch: whom it is like does not matter.
        batches = config.dynamic_batching is not None or config.sequence_batching is not None
        self._always_alike = not batches or all(_has_one_shape(d) for d in config.input)
        self._plain = PlainInputs(config)
        # The content of a shape tensor decides who shares a batch, so that no likeness tells.
        self._content_counts = any(d.is_shape_tensor for d in config.input)
        self._reshapes = any(d.reshape is not None for d in config.input)
        # What was found of requests by their likeness, which is never None here.
        self._known: dict[object, Known] = {}

    def check(self, request: InferRequest) -> Checked:
        """The request, ready for the scheduler; InvalidArgument says what is wrong with it."""
        likeness = request.likeness
        known = self._known.get(likeness)
        if known is not None:
            return self._like(known, request)
        plain = self._plain.arrays(request)
        checked = self._checked(plain) if plain is not None else self._check_carefully(request)
        if likeness is not None and not self._content_counts:
            self._remember(likeness, checked)
        return checked

    def recall(self, likeness: object) -> Known | None:
        """What is known of requests of this likeness, if one was found to fit before."""
        return self._known.get(likeness)

    def _like(self, known: Known, request: InferRequest) -> Checked:
        """The check of a request that is like one that was found to fit."""
        rows, signature, length, shapes = known
        inputs = request.inputs
        if shapes is None:
            if len(inputs) == 1:
                return Checked({inputs[0].name: inputs[0].array}, rows, signature, length)
            arrays = {tensor.name: tensor.array for tensor in inputs}
        else:
            arrays = {t.name: t.array.reshape(shapes[t.name]) for t in inputs}
        return Checked(arrays, rows, signature, length)

    def _remember(self, likeness: object, checked: Checked) -> None:
        # Starting afresh costs each kind one check, and is safe from any thread.
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        shapes = {name: array.shape for name, array in checked.arrays.items()}
        self._known[likeness] = (
            checked.rows,
            checked.signature,
            checked.length,
            shapes if self._reshapes else None,
        )

    def _checked(self, plain: PlainArrays) -> Checked:
        arrays, rows = plain
        return Checked(arrays, rows, self._signature(arrays), self._length(arrays))

    def _check_carefully(self, request: InferRequest) -> Checked:
        self._check_names(request)
        for tensor in request.inputs:
            declared = self._inputs[tensor.name]
            if tensor.datatype is not declared.data_type:
                self._wrong_datatype(tensor, declared)
        rows = self._rows(request.inputs) if self._max_batch > 0 else 1
        arrays = {t.name: self._fit(t, self._inputs[t.name]) for t in request.inputs}
        if request.outputs:
            check_classification(request.outputs, self._outputs, rows)
        return Checked(arrays, rows, self._signature(arrays), self._length(arrays))

    # -- names -----------------------------------------------------------------------------------

    def _check_names(self, request: InferRequest) -> None:
        given = [tensor.name for tensor in request.inputs]
        for name in given:
            if name not in self._inputs:
                refuse(f"unexpected inference input '{name}' for model '{self._name}'", name)
        if not self._required.issubset(given):
            self._missing(given)
        seen: set[str] = set()
        for output in request.outputs:
            if output.name not in self._outputs:
                text = f"unexpected inference output '{output.name}' for model '{self._name}'"
                refuse(text, output.name, "outputs")
            if output.name in seen:
                text = f"output '{output.name}' already exists in request"
                refuse(text, output.name, "outputs")
            seen.add(output.name)

    def _missing(self, given: Sequence[str]) -> NoReturn:
        missing = [name for name in self._inputs if name in self._required - set(given)]
        required, total = len(self._required), len(self._inputs)
        expected = (
            f"expected {total} inputs"
            if required == total
            else f"expected number of inputs between {required} and {total}"
        )
        refuse(
            f"{expected} but got {len(given)} inputs for model '{self._name}'. "
            f"Got input(s) [{_quoted(given)}], but missing required input(s) "
            f"[{_quoted(missing)}]. Please provide all required input(s).",
            missing[0],
        )

    # -- datatypes, shapes, sizes ----------------------------------------------------------------

    def _wrong_datatype(self, tensor: Tensor, declared: ModelInput) -> NoReturn:
        refuse(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype.value}', "
            f"but model '{self._name}' expects '{declared.data_type.value}'",
            tensor.name,
        )

    def _rows(self, inputs: Iterable[Tensor]) -> int:
        """The batch size on which all inputs agree."""
        rows: int | None = None
        for tensor in inputs:
            if self._inputs[tensor.name].is_shape_tensor:
                continue
            if not tensor.shape:
                refuse(
                    f"input '{tensor.name}' has no shape but model requires batch dimension "
                    f"for '{self._name}'",
                    tensor.name,
                )
            if rows is not None and tensor.shape[0] != rows:
                text = f"input '{tensor.name}' batch size does not match other inputs"
                refuse(f"{text} for '{self._name}'", tensor.name)
            rows = tensor.shape[0]
            self._check_batch_size(rows, tensor)
        return 1 if rows is None else rows

    def _check_batch_size(self, rows: int, tensor: Tensor) -> None:
        if rows > self._max_batch:
            text = f"inference request batch-size must be <= {self._max_batch} for '{self._name}'"
            refuse(text, tensor.name)
        if rows == 0:
            refuse(f"inference request batch-size must be > 0 for '{self._name}'", tensor.name)
        if rows < 0:
            self._wildcard(tensor)

    def _fit(self, tensor: Tensor, declared: ModelInput) -> Any:
        """The tensor's array, its shape checked, its bytes viewed, in the model's own shape."""
        batched = self._max_batch > 0 and not declared.is_shape_tensor
        dims = tensor.shape[1:] if batched else tensor.shape
        # Equal is only enough without wildcards: a -1 that was sent equals a -1 that was declared.
        if dims != declared.dims or -1 in dims:
            self._check_dims(tensor, dims, declared, batched)
        array = array_of(tensor, self._name)
        if declared.reshape is None:
            return array
        own = _reshaped(declared, dims)
        return array.reshape((tensor.shape[0], *own) if batched else own)

    def _check_dims(
        self, tensor: Tensor, dims: tuple[int, ...], declared: ModelInput, batched: bool
    ) -> None:
        if any(dim < 0 for dim in tensor.shape):
            self._wildcard(tensor)
        expected = declared.dims
        fits = len(dims) == len(expected) and all(
            want in (-1, got) for want, got in zip(expected, dims, strict=True)
        )
        if not fits:
            full = (-1, *expected) if batched else expected
            note = _BATCH_NOTE if batched else ""
            refuse(
                f"unexpected shape for input '{tensor.name}' for model '{self._name}'. "
                f"Expected {dims_text(full)}, got {dims_text(tensor.shape)}. {note}",
                tensor.name,
            )

    def _wildcard(self, tensor: Tensor) -> NoReturn:
        refuse(
            f"All input dimensions should be specified for input '{tensor.name}' "
            f"for model '{self._name}', got {dims_text(tensor.shape)}",
            tensor.name,
        )

    # -- what the batcher needs ------------------------------------------------------------------

    def _signature(self, arrays: Mapping[str, Any]) -> Any:
        """Equal for requests that may share a batch: same inputs present, same shapes after the
        batch.
        """
        if self._always_alike:
            return None
        first = 1 if self._max_batch > 0 else 0
        parts: list[Any] = []
        for name, array in arrays.items():
            if self._inputs[name].is_shape_tensor:
                parts.append((name, array.shape, array.tobytes()))
            elif name in self._ragged:
                parts.append((name, None))
            elif name in self._by_length:
                parts.append((name, self._beside_length(name, array)))
            else:
                parts.append((name, tuple(array.shape[first:])))
        return tuple(sorted(parts, key=_by_name))

    def _beside_length(self, name: str, array: Any) -> tuple[int, ...] | None:
        """The dims of an input that is padded along its first variable one, if more than that may
        vary: padding makes no two of these alike.
        """
        dims = self._inputs[name].dims
        if dims.count(-1) < 2:
            return None
        shape = array.shape[1 if self._max_batch > 0 else 0 :]
        return tuple(size for at, size in enumerate(shape) if at != dims.index(-1))

    def _length(self, arrays: Mapping[str, Any]) -> int:
        if not self._by_length:
            return 0
        named = [(name, array) for name, array in arrays.items() if name in self._by_length]
        return max((self._own_length(name, array) for name, array in named), default=0)

    def _own_length(self, name: str, array: Any) -> int:
        """The longest element of a BYTES tensor; else the size of the first variable dimension."""
        declared = self._inputs[name]
        if declared.data_type is DataType.BYTES:
            return max((len(item) for item in array.reshape(-1)), default=0)
        first = 1 if self._max_batch > 0 else 0
        return int(array.shape[first + declared.dims.index(-1)]) if -1 in declared.dims else 0


def _has_one_shape(declared: ModelInput) -> bool:
    return -1 not in declared.dims and not declared.optional and not declared.is_shape_tensor


def _by_name(part: tuple[Any, ...]) -> str:
    name: str = part[0]
    return name


def _reshaped(declared: ModelInput, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The model's own dims; a -1 there takes the value of the matching wildcard."""
    wildcards = iter(got for want, got in zip(declared.dims, dims, strict=True) if want == -1)
    target = declared.reshape.shape if declared.reshape is not None else dims
    return tuple(next(wildcards, 1) if dim == -1 else dim for dim in target)


def _quoted(names: Iterable[str]) -> str:
    return ",".join(f"'{name}'" for name in names)
