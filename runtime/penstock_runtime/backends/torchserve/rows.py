"""Arrays as the requests of TorchServe and its results as arrays: one request a row."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from penstock_runtime.backends.arrays import WrongValue, as_array
from penstock_runtime.config import ModelConfig, ModelOutput
from penstock_runtime.datatype import AnyArray, DataType, bf16_to_float32
from penstock_runtime.errors import FailureReason, Internal, InvalidArgument
from penstock_runtime.tensor import object_array, to_host

# The two names under which handlers look for the data of a request that has one part.
_USUAL = ("data", "body")
CONTENT_TYPE = "content_type"
_JSON = "application/json"


class RowPlan:
    """How the tensors of one model become rows of data and back; made once per load."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = config.name
        self.batched = config.max_batch_size > 0
        self._content_type = config.parameter(CONTENT_TYPE)
        self._datatypes = {declared.name: declared.data_type for declared in config.input}
        self._outputs = config.output

    def count(self, inputs: Mapping[str, Any]) -> int:
        """How many rows there are."""
        if not self.batched:
            return 1
        return next((int(array.shape[0]) for array in inputs.values()), 0)

    def data(
        self, inputs: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """One mapping of names to values per row; `parameters` are those of each row's request.

        A value is a bytearray, a list of them or of numbers, or whatever JSON says. InvalidArgument
        for JSON that is none.
        """
        rows: list[dict[str, Any]] = [{} for _ in parameters]
        for name, array in inputs.items():
            host, datatype = to_host(array), self._datatypes.get(name, DataType.FP32)
            if datatype is DataType.BF16:
                host = bf16_to_float32(host)
            parts = host if self.batched else (host,)
            for row, part, given in zip(rows, parts, parameters, strict=True):
                row[name] = self._value(name, part, datatype, given)
        if len(inputs) == 1:
            for row in rows:
                (value,) = row.values()
                row.update({name: value for name in _USUAL if name not in row})
        return rows

    def _value(
        self, name: str, part: AnyArray, datatype: DataType, given: Mapping[str, Any]
    ) -> Any:
        if datatype is not DataType.BYTES:
            return part.tolist()
        content_type = str(given.get(CONTENT_TYPE, self._content_type))
        items = [
            _from_json(name, item) if content_type.startswith(_JSON) else bytearray(item)
            for item in np.asarray(part, dtype=object).reshape(-1).tolist()
        ]
        return items[0] if len(items) == 1 else items

    def arrays(self, returned: Any, count: int) -> dict[str, AnyArray]:
        """The outputs of `count` rows; Internal for results that are something else."""
        if hasattr(returned, "tolist"):
            returned = returned.tolist()
        if not isinstance(returned, list | tuple) or len(returned) != count:
            kind = type(returned).__name__
            found = (
                f"{len(returned)} results" if isinstance(returned, list | tuple) else f"a {kind}"
            )
            raise _broken(f"the handler of model '{self.model}' returned {found}", f"{count}")
        if len(self._outputs) == 1:
            return {self._outputs[0].name: self._array(self._outputs[0], returned)}
        return {
            output.name: self._array(output, [self._part(item, output.name) for item in returned])
            for output in self._outputs
        }

    def _part(self, item: Any, name: str) -> Any:
        if isinstance(item, dict) and name in item:
            return item[name]
        found = ", ".join(map(str, item))[:128] if isinstance(item, dict) else type(item).__name__
        raise _broken(f"a result of model '{self.model}' has no '{name}' ({found})", "every output")

    def _array(self, output: ModelOutput, items: Sequence[Any]) -> AnyArray:
        convert = _texts if output.data_type is DataType.BYTES else _numbers
        try:
            parts = [convert(item, output) for item in items]
            array = np.stack(parts) if self.batched else parts[0]
        except (WrongValue, TypeError, ValueError) as error:
            text = f"output '{output.name}' of model '{self.model}' {error}"
            raise _broken(text, output.data_type.value) from error
        return array


def _from_json(name: str, item: Any) -> Any:
    try:
        return json.loads(item)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"input '{name}' is said to be {_JSON} and is no JSON", scheduled=True
        ) from error


def _numbers(item: Any, output: ModelOutput) -> AnyArray:
    array: AnyArray = as_array(item, output.data_type)
    if not array.ndim and prod(output.dims) in (1, -1):
        array = array.reshape((1,) * len(output.dims))
    return array


def _texts(item: Any, output: ModelOutput) -> AnyArray:
    """One element for a tensor of one, else the items of a list."""
    if prod(output.dims) == 1:
        return object_array([_encoded(item)]).reshape((1,) * len(output.dims))
    if not isinstance(item, list | tuple):
        raise WrongValue(f"is a {type(item).__name__}, not a list")
    return object_array([_encoded(part) for part in item])


def _encoded(item: Any) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    if hasattr(item, "tolist"):
        item = item.tolist()
    return json.dumps(item).encode()


def _broken(what: str, expected: str) -> Internal:
    return Internal(f"{what}, expected {expected}", failure=FailureReason.BACKEND, scheduled=True)
