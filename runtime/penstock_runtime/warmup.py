"""Warm-up: requests made from the configuration that an instance executes before its model is
READY.

They take the way of every other request, from the check of their inputs on, so that the model sees
what it will see later: reshaped, padded, flat, with whatever tells of the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from penstock_runtime.backends.base import (
    AnyExecutable,
    RequestExecutable,
    StreamingExecutable,
)
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig, Warmup, WarmupInput
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import AnyArray, DataType, float32_to_bf16
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import BytesFormatError, Tensor, unpack_bytes
from penstock_runtime.validation import RequestValidator
from penstock_runtime.warmup_task import WarmupTask


@dataclass(frozen=True, slots=True)
class WarmupRequest:
    """A batch of requests, and how often it is executed; `provided` are inputs that no request
    carries and that no plan makes.
    """

    name: str
    batch: Batch
    provided: Mapping[str, Any]
    count: int


def warmup_requests(config: ModelConfig, root: Path) -> tuple[WarmupRequest, ...]:
    """The warm-up requests of a configuration; data files lie in the model's `warmup` folder.

    InvalidArgument for a file that does not hold what its input needs.
    """
    if not config.model_warmup:
        return ()
    validator = RequestValidator(config)
    return tuple(_request(config, sample, root, validator) for sample in config.model_warmup)


def warm_up(executable: AnyExecutable, plan: BatchPlan, request: WarmupRequest) -> None:
    """Execute one warm-up request; whatever it raises keeps the model from being READY."""
    members = request.batch.members
    for _ in range(request.count):
        if isinstance(executable, RequestExecutable):
            _hand_over(executable, request)
        elif isinstance(executable, StreamingExecutable):
            for pending in members:
                _stream(executable, plan, request, pending)
        else:
            contexts = [RequestContext(p.request, p.stream) for p in members]
            executable.execute(_inputs(plan, request, members), contexts)


def _hand_over(executable: RequestExecutable, request: WarmupRequest) -> None:
    tasks = [WarmupTask(pending.request, pending.arrays) for pending in request.batch.members]
    executable.execute_requests(tasks)
    for task in tasks:
        task.wait()


def _stream(
    executable: StreamingExecutable, plan: BatchPlan, request: WarmupRequest, pending: Pending
) -> None:
    context = RequestContext(pending.request, pending.stream)
    for _response in executable.stream(_inputs(plan, request, [pending]), context):
        pass


def _inputs(plan: BatchPlan, request: WarmupRequest, members: Sequence[Pending]) -> dict[str, Any]:
    rows = request.provided
    if len(members) < request.batch.rows:
        rows = {name: array[: len(members)] for name, array in rows.items()}
    return {**rows, **plan.merge(Batch.of(members))}


def _request(
    config: ModelConfig, sample: Warmup, root: Path, validator: RequestValidator
) -> WarmupRequest:
    """As in Triton, `batch_size` requests of one row each."""
    size = max(sample.batch_size, 1)
    rows = {name: _rows(name, one, size, root) for name, one in sample.inputs.items()}
    members = [_member(config, sample, rows, at, validator) for at in range(size)]
    provided = {
        name: np.stack(values) if config.max_batch_size > 0 else values[0]
        for name, values in rows.items()
        if config.find_input(name) is None
    }
    return WarmupRequest(sample.name, Batch.of(members), provided, max(sample.count, 1))


def _member(
    config: ModelConfig,
    sample: Warmup,
    rows: Mapping[str, Sequence[AnyArray]],
    at: int,
    validator: RequestValidator,
) -> Pending:
    tensors = []
    for declared in config.input:
        if declared.name in rows:
            array = rows[declared.name][at]
            if config.max_batch_size > 0 and not declared.is_shape_tensor:
                array = array[None]
            tensors.append(Tensor(declared.name, declared.data_type, array.shape, array))
    request = InferRequest(config.name, tuple(tensors), id=f"warmup:{sample.name}")
    checked = validator.check(request)
    return Pending(request, ResponseStream(), checked.arrays, checked.rows, length=checked.length)


def _rows(name: str, declared: WarmupInput, size: int, root: Path) -> list[AnyArray]:
    """The input of each request."""
    if declared.input_data_file:
        return _from_file(name, declared, size, root)
    if declared.data_type is DataType.BYTES:
        return [np.full(declared.dims, b"", dtype=object)] * size
    if declared.random_data:
        random = np.random.default_rng(0)
        return [_random(random, declared) for _ in range(size)]
    return [np.zeros(declared.dims, declared.data_type.numpy)] * size


def _random(random: np.random.Generator, declared: WarmupInput) -> AnyArray:
    """Numbers from 0 to 1, or integers from 0 to 127."""
    values, dtype = random.random(declared.dims), declared.data_type.numpy
    if declared.data_type is DataType.BF16:
        return float32_to_bf16(values.astype(np.float32))
    if declared.data_type is DataType.BOOL:
        return values < 0.5
    return (values if dtype.kind == "f" else values * 128).astype(dtype)


def _from_file(name: str, declared: WarmupInput, size: int, root: Path) -> list[AnyArray]:
    """What a file holds: the elements of one request, for all of them, or those of each."""
    folder = (root / "warmup").resolve()
    path = (folder / declared.input_data_file).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InvalidArgument(
            f"warm-up data file of input '{name}' is not in the model's warmup folder"
        )
    data, one = path.read_bytes(), prod(declared.dims)
    if declared.data_type is DataType.BYTES:
        flat = _strings(name, data, one, size)
    else:
        flat = _numbers(name, data, declared.data_type, one, size)
    if len(flat) == one:
        return [flat.reshape(declared.dims)] * size
    return list(flat.reshape(size, *declared.dims))


def _numbers(name: str, data: bytes, datatype: DataType, one: int, size: int) -> AnyArray:
    expected = one * datatype.size
    if len(data) not in (expected, expected * size):
        more = f", or {expected * size} for {size} requests" if size > 1 else ""
        raise InvalidArgument(
            f"warm-up data of input '{name}' has {len(data)} bytes, expected {expected}{more}"
        )
    return np.frombuffer(data, datatype.numpy)


def _strings(name: str, data: bytes, one: int, size: int) -> AnyArray:
    try:
        return unpack_bytes(data, one)
    except BytesFormatError as error:
        if size == 1:
            raise InvalidArgument(f"warm-up data of input '{name}': {error}") from error
    try:
        return unpack_bytes(data, one * size)
    except BytesFormatError as error:
        raise InvalidArgument(f"warm-up data of input '{name}': {error}") from error
