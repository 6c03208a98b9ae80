"""What each step of a request costs besides the model, in microseconds, without any transport.

    python -m benchmarks.overhead

Steps: bytes to request, the check against the configuration, through the dynamic batcher, a batch
merged and split again, response to bytes. The best of several rounds, in one thread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.report import Finding, arguments, publish

from penstock.codec.decode import decode_request
from penstock.codec.encode import encode_response
from penstock.codec.request_encoder import encode_request
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.datatype import DataType
from penstock_runtime.request import EMPTY, InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor, object_array
from penstock_runtime.validation import RequestValidator

ROUNDS = 7
TOGETHER = 32
STEPS = ("decode", "check", "batcher", "merge", "split", "encode")


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request: its input, of one row, comes back as its output."""

    label: str
    tensor: Tensor
    repeats: int

    @property
    def config(self) -> ModelConfig:
        """A model that takes batches of these."""
        dims = self.tensor.shape[1:]
        return ModelConfig(
            name="echo",
            max_batch_size=TOGETHER,
            input=(ModelInput("X", self.tensor.datatype, dims),),
            output=(ModelOutput("Y", self.tensor.datatype, dims),),
            dynamic_batching=DynamicBatching(),
        )


def cases() -> list[Case]:
    """Small and large numbers, and text."""
    text = object_array([b"a short sentence of eight words or so"]).reshape(1, 1)
    numbers = np.random.default_rng(0)
    small, large = (numbers.random((1, n), dtype=np.float32) for n in (16, 262_144))
    return [
        Case("FP32[1,16]", Tensor("X", DataType.FP32, (1, 16), small), 2000),
        Case("BYTES[1,1]", Tensor("X", DataType.BYTES, (1, 1), text), 2000),
        Case("FP32[1,262144], 1 MiB", Tensor("X", DataType.FP32, (1, 262_144), large), 20),
    ]


def best_us(step: Callable[[], object], repeats: int) -> float:
    """The duration of one call in the best round."""
    durations = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(repeats):
            step()
        durations.append((time.perf_counter_ns() - began) / repeats / 1e3)
    return min(durations)


def measure_case(case: Case) -> list[float]:
    """Microseconds a request of every step; a batch is shared by 32."""
    config, repeats = case.config, case.repeats
    body = encode_request(InferRequest("echo", (case.tensor,), id="1"))
    validator, batcher = RequestValidator(config), DynamicBatcher(config)
    request = decode_request(body, 0)
    waiting = [_pending(validator, request) for _ in range(TOGETHER)]
    batch, plan = Batch.of(waiting), BatchPlan(config, 1)
    outputs = {"Y": plan.merge(batch)["X"]}
    nothing, untimed = [EMPTY] * TOGETHER, [None] * TOGETHER
    response = plan.split(batch, outputs, nothing, untimed)[0]

    def through_the_batcher() -> None:
        for pending in waiting:
            batcher.add(pending, 0)
        batcher.take(0)

    shared = max(repeats // TOGETHER, 1)
    return [
        best_us(lambda: decode_request(body, 0), repeats),
        best_us(lambda: validator.check(request), repeats),
        best_us(through_the_batcher, shared) / TOGETHER,
        best_us(lambda: plan.merge(batch), shared) / TOGETHER,
        best_us(lambda: plan.split(batch, outputs, nothing, untimed), shared) / TOGETHER,
        best_us(lambda: encode_response(response), repeats),
    ]


def _pending(validator: RequestValidator, request: InferRequest) -> Pending:
    checked = validator.check(request)
    return Pending(
        request,
        ResponseStream(),
        arrays=checked.arrays,
        batch_size=checked.rows,
        signature=checked.signature,
    )


def measure(chosen: Sequence[Case]) -> Finding:
    """A row for every case."""
    found = [(case.label, measure_case(case)) for case in chosen]
    rows = [(label, *(f"{us:.1f}" for us in [*steps, sum(steps)])) for label, steps in found]
    summary = "; ".join(f"{label}: {sum(steps):.0f} us" for label, steps in found)
    return Finding("overhead", ("microseconds a request", *STEPS, "all"), rows, summary)


def main() -> None:
    """Measure as the command line says."""
    chosen = arguments("Measure what the server's own steps cost.").parse_args()
    publish(measure(cases()), record=chosen.record)


if __name__ == "__main__":
    main()
