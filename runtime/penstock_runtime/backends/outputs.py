"""What one call of a model returned, as named arrays; an error names the output, what came and what
was declared.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock_runtime.backends.arrays import WrongValue
from penstock_runtime.config import ModelOutput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.signature_annotations import Field, OutputForm

Convert = Callable[[Any, DataType], Any]


class OutputPlan:
    """How the return values of one model become its outputs.

    `declared` are the outputs of the configuration; `fields` those of the signature (may be empty),
    in the order of a returned tuple. `convert` makes an array of one value.
    """

    def __init__(
        self,
        model: str,
        declared: Sequence[ModelOutput],
        fields: Sequence[Field],
        form: OutputForm,
        convert: Convert,
        *,
        batched: bool,
    ) -> None:
        self._model = model
        self._declared = {output.name: output for output in declared}
        self._order = tuple(f.name for f in fields) or tuple(self._declared)
        self._names = {f.key or f.name: f.name for f in fields}
        self._may_miss = frozenset(f.name for f in fields if f.optional)
        self._form = form
        self._convert = convert
        self._batched = batched
        self._only = declared[0] if len(declared) == 1 == len(self._order) else None

    @property
    def only(self) -> tuple[str, Any]:
        """Name and dtype of an array that is the one output that there is, just as it is; the dtype
        is None where there are several or it is text.
        """
        only = self._only
        if only is None or only.name != self._order[0] or only.data_type is DataType.BYTES:
            return "", None
        return only.name, only.data_type.numpy

    def arrays(
        self, returned: Any, rows: int | None, contexts: Sequence[RequestContext]
    ) -> dict[str, Any]:
        """The outputs of one call; `rows` is what the batch has (None: not checked).

        An output that no request asked for may be left out.
        """
        if type(returned) is np.ndarray and self._is_the_only(returned, rows):
            return {self._order[0]: returned}
        arrays: dict[str, Any] = {}
        for name, value in self._named(returned):
            declared = self._declared.get(name)
            if declared is not None and (value is not None or name not in self._may_miss):
                arrays[name] = self._array(declared, value, rows)
            elif declared is None and name not in self._order:
                raise self._broken(name, "is unknown", f"one of {', '.join(self._declared)}")
        for name in self._declared:
            if name not in arrays and name not in self._may_miss and _wanted(name, contexts):
                found = ", ".join(arrays) or "nothing"
                raise self._broken(name, f"is missing (got {found})", "every declared output")
        return arrays

    def _is_the_only(self, array: AnyArray, rows: int | None) -> bool:
        """Whether an array is, just as it is, the one output that there is: the ordinary case."""
        only = self._only
        return (
            only is not None
            and only.name == self._order[0]
            and array.dtype == only.data_type.numpy
            and only.data_type is not DataType.BYTES
            and array.ndim > 0
            and rows in (None, array.shape[0])
        )

    def _named(self, returned: Any) -> Iterable[tuple[str, Any]]:
        fields = _as_mapping(returned)
        if fields is not None:
            return [(self._names.get(str(key), str(key)), v) for key, v in fields.items()]
        if self._is_positional(returned):
            if len(returned) != len(self._order):
                raise Internal(
                    f"model '{self._model}' returned {len(returned)} outputs, expected"
                    f" {len(self._order)} ({', '.join(self._order)})",
                    failure=FailureReason.BACKEND,
                    scheduled=True,
                )
            return zip(self._order, returned, strict=True)
        if len(self._order) > 1:
            raise Internal(
                f"model '{self._model}' returned a {type(returned).__name__}, expected"
                f" {len(self._order)} outputs ({', '.join(self._order)}) as a tuple or by name",
                failure=FailureReason.BACKEND,
                scheduled=True,
            )
        return [(self._order[0], returned)]

    def _is_positional(self, returned: Any) -> bool:
        if isinstance(returned, tuple):
            return self._form is not OutputForm.SINGLE
        return isinstance(returned, list) and len(self._order) > 1

    def _array(self, declared: ModelOutput, value: Any, rows: int | None) -> Any:
        try:
            array = self._convert(value, declared.data_type)
        except WrongValue as error:
            raise self._broken(declared.name, str(error), declared.data_type.value) from error
        if array.ndim == 0 and all(dim in (1, -1) for dim in declared.dims):
            array = array.reshape((1,) * (len(declared.dims) + self._batched))
        if rows is not None and (array.ndim == 0 or array.shape[0] != rows):
            shape = ",".join(map(str, array.shape))
            raise self._broken(declared.name, f"has shape [{shape}]", f"{rows} rows")
        return array

    def _broken(self, output: str, found: str, expected: str) -> Internal:
        return Internal(
            f"output '{output}' of model '{self._model}' {found}, expected {expected}",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )


def _as_mapping(returned: Any) -> Mapping[Any, Any] | None:
    """A dictionary, a NamedTuple or a dataclass by its keys; None for anything else."""
    if isinstance(returned, Mapping):
        return returned
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        named: Mapping[Any, Any] = returned._asdict()
        return named
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {f.name: getattr(returned, f.name) for f in dataclasses.fields(returned)}
    return None


def _wanted(name: str, contexts: Sequence[RequestContext]) -> bool:
    """Whether any request wants this output; one that names none wants all."""
    asked = [context.requested_outputs for context in contexts]
    return not asked or any(not names or name in names for names in asked)
