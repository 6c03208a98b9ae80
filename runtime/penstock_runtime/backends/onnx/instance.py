"""One instance of an ONNX model: named arrays in, one run of the session, named arrays out.

Inputs lend their memory to the session, and outputs are views of its memory: nothing is copied that
does not cross to a device. BF16, which numpy does not know, goes in and out as uint16 halves.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnxruntime

from penstock_runtime.backends.base import Arrays, Straight
from penstock_runtime.backends.completion import kept_outputs, provided_inputs
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.onnx.completion import DATATYPES, OnnxSignature
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import AnyArray, DataType
from penstock_runtime.errors import InvalidArgument, PenstockError, Unavailable
from penstock_runtime.tensor import object_array, to_host

# The number of BFLOAT16 in onnx.proto.
_BF16 = 16
Prepare = Callable[[str, Any], Any]


class OnnxPlan:
    """How the arrays of one model become what its session takes, and back; made once."""

    def __init__(self, config: ModelConfig, signature: OnnxSignature) -> None:
        self.model = config.name
        named = {*provided_inputs(config), *(declared.name for declared in config.input)}
        kinds = {t.name: DATATYPES[t.kind] for t in signature.inputs if t.name in named}
        self.prepare: Mapping[str, Prepare] = {n: _preparing(kind) for n, kind in kinds.items()}
        kept = kept_outputs(config)
        outputs = (*config.output, *kept)
        self._kept = frozenset(output.name for output in kept)
        self.outputs = tuple(output.name for output in outputs)
        self.texts = tuple(o.name for o in outputs if o.data_type is DataType.BYTES)
        self.halves = frozenset(o.name for o in outputs if o.data_type is DataType.BF16)
        self.with_halves = bool(self.halves) or DataType.BF16 in kinds.values()

    def wanted(self, contexts: Sequence[RequestContext]) -> Sequence[str]:
        """The outputs that any of the requests asks for; all of them where one names none."""
        asked = set(self._kept)
        for context in contexts:
            if not context.requested_outputs:
                return self.outputs
            asked.update(context.requested_outputs)
        return [name for name in self.outputs if name in asked]


class OnnxExecutable(Straight):
    """An instance; its session is that of every other instance on the device."""

    def __init__(self, plan: OnnxPlan, session: Any) -> None:
        self._plan = plan
        self._session: Any = session

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises the model's failure."""
        try:
            return self._run(inputs, self._plan.wanted(contexts))
        except (PenstockError, Exception) as error:
            raise self.failure(error) from error

    @property
    def straight(self) -> Callable[..., Any] | None:
        """The run of a model with one output; see `base.Straight`."""
        return self._only if len(self._plan.outputs) == 1 else None

    def outputs(
        self,
        returned: Any,
        inputs: Arrays,  # noqa: ARG002 - the protocol's arguments
        contexts: Sequence[RequestContext],  # noqa: ARG002
    ) -> Arrays:
        """What `straight` returned, under its name."""
        return {self._plan.outputs[0]: returned}

    def failure(self, error: BaseException) -> PenstockError:
        """What a run raised, as `execute` raises it."""
        if isinstance(error, PenstockError):
            return error
        return execution_failure(error, self._plan.model)

    def close(self) -> None:
        """Let go of the session."""
        self._session = _Closed()

    def _only(self, /, **inputs: Any) -> Any:
        (name,) = self._plan.outputs
        return self._run(inputs, (name,))[name]

    def _run(self, inputs: Arrays, wanted: Sequence[str]) -> dict[str, Any]:
        plan = self._plan
        feed = {name: plan.prepare[name](name, array) for name, array in inputs.items()}
        if plan.with_halves:
            return self._run_with_halves(feed, wanted)
        arrays = dict(zip(wanted, self._session.run(wanted, feed), strict=True))
        for name in plan.texts:
            if name in arrays:
                arrays[name] = _as_bytes(arrays[name])
        return arrays

    def _run_with_halves(self, feed: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        """As `_run`, for a model with BF16 among its tensors: dearer, but without widening."""
        value = onnxruntime.OrtValue
        values = {
            name: array if isinstance(array, value) else value.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        returned = self._session.run_with_ort_values(wanted, values)
        return {
            name: _halves(found) if name in self._plan.halves else _plain(name, found, self._plan)
            for name, found in zip(wanted, returned, strict=True)
        }


class _Closed:
    """Stands for the session of an instance that has been closed."""

    def __getattr__(self, name: str) -> Any:
        raise Unavailable("the instance has been closed")


def _preparing(datatype: DataType) -> Prepare:
    if datatype is DataType.BYTES:
        return _texts
    return _lent_halves if datatype is DataType.BF16 else _lent


def _lent(_name: str, array: Any) -> AnyArray:
    host = array if type(array) is np.ndarray else to_host(array)
    flags = host.flags
    # Compiled loops take elements to be aligned; bytes of the wire may begin anywhere.
    return host if flags.c_contiguous and flags.aligned else np.array(host, order="C")


def _lent_halves(name: str, array: Any) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(_lent(name, array), _BF16)


def _texts(name: str, array: Any) -> AnyArray:
    """Bytes as the text that ONNX has strings of; InvalidArgument for bytes that are none."""
    flat = array.reshape(-1).tolist()
    texts = np.empty(len(flat), dtype=object)
    try:
        texts[:] = [item.decode() if isinstance(item, bytes) else str(item) for item in flat]
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"input '{name}' has a string that is not UTF-8 (byte {error.object[error.start]:#04x}"
            f" at offset {error.start}), as strings of ONNX are",
            scheduled=True,
        ) from error
    return texts.reshape(array.shape)


def _as_bytes(array: Any) -> AnyArray:
    texts = np.asarray(array, dtype=object)
    encoded = [str(item).encode() for item in texts.reshape(-1).tolist()]
    return object_array(encoded).reshape(texts.shape)


def _plain(name: str, value: Any, plan: OnnxPlan) -> AnyArray:
    array: AnyArray = value.numpy()
    return _as_bytes(array) if name in plan.texts else array


class _Held:
    """Shows memory of a value as an array of uint16, and keeps the value alive."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.__array_interface__ = {
            "shape": tuple(value.shape()),
            "typestr": "<u2",
            "data": (value.data_ptr(), False),
            "version": 3,
        }


def _halves(value: Any) -> AnyArray:
    if not prod(value.shape()):
        return np.empty(tuple(value.shape()), np.uint16)
    return np.asarray(_Held(value))
