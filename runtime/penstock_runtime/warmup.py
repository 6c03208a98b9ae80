"""Warm-up: requests made from the configuration that an instance executes before its model is
READY.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock_runtime.backends.base import AnyExecutable, StreamingExecutable
from penstock_runtime.config import ModelConfig, Warmup, WarmupInput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import BytesFormatError, unpack_bytes


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    """Inputs by name, and how often they are executed."""

    name: str
    arrays: Mapping[str, Any]
    count: int


def warmup_requests(config: ModelConfig, root: Path) -> tuple[WarmupRequest, ...]:
    """The warm-up requests of a configuration; data files lie in the model's `warmup` folder."""
    return tuple(_request(config, sample, root) for sample in config.model_warmup)


def warm_up(executable: AnyExecutable, request: WarmupRequest) -> None:
    """Execute one warm-up request; whatever it raises keeps the model from being READY."""
    context = RequestContext(InferRequest("", (), id=f"warmup:{request.name}"), ResponseStream())
    for _ in range(request.count):
        if isinstance(executable, StreamingExecutable):
            for _response in executable.stream(request.arrays, context):
                pass
        else:
            executable.execute(request.arrays, [context])


def _request(config: ModelConfig, sample: Warmup, root: Path) -> WarmupRequest:
    arrays = {
        name: _array(name, declared, _shape(config, sample, declared), root)
        for name, declared in sample.inputs.items()
    }
    return WarmupRequest(sample.name, arrays, max(sample.count, 1))


def _shape(config: ModelConfig, sample: Warmup, declared: WarmupInput) -> tuple[int, ...]:
    if config.max_batch_size > 0:
        return (max(sample.batch_size, 1), *declared.dims)
    return declared.dims


def _array(name: str, declared: WarmupInput, shape: tuple[int, ...], root: Path) -> Any:
    if declared.input_data_file:
        return _from_file(name, declared, shape, root)
    if declared.data_type is DataType.BYTES:
        return np.full(shape, b"", dtype=object)
    dtype = declared.data_type.numpy
    if declared.random_data:
        values = np.random.default_rng(0).random(shape)
        return values.astype(dtype) if dtype.kind == "f" else (values * 127).astype(dtype)
    return np.zeros(shape, dtype)


def _from_file(name: str, declared: WarmupInput, shape: tuple[int, ...], root: Path) -> Any:
    folder = (root / "warmup").resolve()
    path = (folder / declared.input_data_file).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InvalidArgument(
            f"warm-up data file of input '{name}' is not in the model's warmup folder"
        )
    data, count = path.read_bytes(), int(np.prod(shape))
    if declared.data_type is DataType.BYTES:
        try:
            return unpack_bytes(data, count).reshape(shape)
        except BytesFormatError as error:
            raise InvalidArgument(f"warm-up data of input '{name}': {error}") from error
    expected = count * declared.data_type.size
    if len(data) != expected:
        raise InvalidArgument(
            f"warm-up data of input '{name}' has {len(data)} bytes, expected {expected}"
        )
    return np.frombuffer(data, declared.data_type.numpy).reshape(shape)
