"""Fakes at the seams of the runtime."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock_runtime.backends.base import Arrays, Placement
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import DataType
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor

MS = 1_000_000


def pending(
    *,
    rows: int = 1,
    at: int = 0,
    deadline: int | None = None,
    priority: int = 0,
    timeout_us: int = 0,
    signature: object = None,
    length: int = 0,
) -> Pending:
    """A request that waits; times in nanoseconds."""
    request = InferRequest("m", (), deadline_ns=deadline, priority=priority, timeout_us=timeout_us)
    return Pending(
        request,
        ResponseStream(),
        batch_size=rows,
        arrived_ns=at,
        signature=signature,
        length=length,
    )


def config(
    *,
    max_batch: int = 8,
    batching: DynamicBatching | None = None,
    dims: tuple[int, ...] = (2,),
    name: str = "m",
) -> ModelConfig:
    """A model with one FP32 input X and one FP32 output Y of the same dims."""
    return ModelConfig(
        name=name,
        max_batch_size=max_batch,
        input=(ModelInput("X", DataType.FP32, dims),),
        output=(ModelOutput("Y", DataType.FP32, dims),),
        dynamic_batching=batching,
    )


def request(
    values: Any, *, deadline_ns: int | None = None, id_: str = "", depth: int = 0
) -> InferRequest:
    """A request for model m with the FP32 input X."""
    array = np.asarray(values, dtype=np.float32)
    tensor = Tensor("X", DataType.FP32, array.shape, array)
    return InferRequest("m", (tensor,), id=id_, deadline_ns=deadline_ns, depth=depth)


class HandClock:
    """A clock that only moves when told."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class FunctionExecutable:
    """An executable that calls a function with X and gives its result as Y."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.batches: list[int] = []
        self.closed = False

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        self.batches.append(len(contexts))
        return {"Y": self.function(inputs["X"])}

    def close(self) -> None:
        self.closed = True


class FakeLoaded:
    """A loaded model whose instances all call one function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.executables: list[FunctionExecutable] = []
        self.closed = False

    def executable(self, placement: Placement) -> FunctionExecutable:
        executable = FunctionExecutable(self.function)
        self.executables.append(executable)
        return executable

    def close(self) -> None:
        self.closed = True

    def memory_bytes(self) -> Mapping[str, int]:
        return {"cpu": 0}
