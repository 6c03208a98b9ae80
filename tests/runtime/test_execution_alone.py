"""Requests that are executed one after the other are answered as a batch of each would be."""

import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.runtime.fakes import FunctionExecutable
from tests.runtime.model_folders import load, write_model

from penstock_runtime.backends.base import Executable, Placement, Straight
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import PenstockError
from penstock_runtime.execution import Desk, execute_batch
from penstock_runtime.execution_alone import execute_alone
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.batch_scheduler import BatchScheduler
from penstock_runtime.scheduling.dynamic_batcher import DynamicBatcher
from penstock_runtime.scheduling.timer import Timer
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor

BODIES = {
    "an array": "return X * 2",
    "a list": "return [[1, 2]]",
    "another datatype": "return X.astype(np.float64)",
    "a dictionary": "return {'OUTPUT0': X}",
    "a wrong shape": "return np.zeros((1, 3), np.float32)",
    "no shape": "return np.float32(1) * np.ones((), np.float32)",
    "nothing": "return None",
    "an error": "raise ValueError('bad weather')",
    "an error of ours": "raise InvalidArgument('x must not be 1')",
    "the end": "raise SystemExit(3)",
}


class Quiet(ResponseStream):
    """Of a caller who does not ask for the timing."""

    wants_timing = False


def asked(*, timed: bool = False, outputs: tuple[str, ...] = (), late: bool = False) -> Pending:
    """A request for X of two numbers."""
    x = np.ones((1, 2), np.float32)
    now = time.monotonic_ns()
    request = InferRequest(
        "m",
        (Tensor("X", DataType.FP32, x.shape, x),),
        id="r1",
        outputs=tuple(RequestedOutput(name) for name in outputs),
        deadline_ns=now - 1 if late else None,
    )
    stream = ResponseStream() if timed else Quiet()
    return Pending(request, stream, {"X": x}, arrived_ns=now)


def desk(config: ModelConfig) -> Desk:
    """A desk with counters of its own."""
    statistics = ModelStatistics("m", 1)
    scheduler = BatchScheduler(DynamicBatcher(config), statistics, Timer())
    return Desk("m_0", BatchPlan(config, 1), scheduler, statistics)


def told(pending: Pending) -> Any:
    """What the caller gets: the outputs, or the error."""
    try:
        responses = pending.stream.collect(0.0)
    except PenstockError as error:
        return type(error), str(error), error.failure
    return [
        (each.id, each.model_name, [(t.name, t.shape, t.array.tolist()) for t in each.outputs])
        for each in responses
    ]


def counted(found: Desk) -> Any:
    snapshot = found.statistics.snapshot()
    return snapshot.success.count, snapshot.inference_count, dict(snapshot.failures)


@pytest.mark.parametrize("outputs", [(), ("OUTPUT0",)])
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_alone_or_in_a_batch_of_one_the_answer_is_the_same(
    body: str, timed: bool, outputs: tuple[str, ...], tmp_path: Path
) -> None:
    """Whatever the model returns or raises, and whatever the caller asks for; counters as well."""
    text = f"""
    from penstock_runtime.errors import InvalidArgument
    def predict(X: FP32[1, 2]) -> FP32[1, 2]:
        {body}
    """
    config, loaded = load(write_model(tmp_path, text))
    made = cast(Executable, loaded.executable(Placement("m_0")))
    alone, together = desk(config), desk(config)
    one, other = (asked(timed=timed, outputs=outputs) for _ in range(2))

    execute_alone(alone, made, [one])
    execute_batch(together, made, Batch.of([other]))

    assert isinstance(made, Straight)
    assert made.straight is not None
    assert told(one) == told(other)
    assert counted(alone) == counted(together)
    made.close()
    loaded.close()


def test_one_that_fails_takes_no_neighbour_with_it(tmp_path: Path) -> None:
    """Of three that are executed in a row, each gets its own answer and moves one counter."""
    text = """
    def predict(X: FP32[1, 2]) -> FP32[1, 2]:
        if X[0, 0] == 0:
            raise SystemExit("out")
        return X
    """
    config, loaded = load(write_model(tmp_path, text))
    made = cast(Executable, loaded.executable(Placement("m_0")))
    at, members = desk(config), [asked() for _ in range(5)]
    members[1].arrays = {"X": np.zeros((1, 2), np.float32)}
    members[3] = asked(late=True)
    members[4].stream.cancel()

    execute_alone(at, made, members)

    answers = [told(each) for each in members]
    assert answers[0] == answers[2] == [("r1", "m", [("OUTPUT0", (1, 2), [[1.0, 1.0]])])]
    assert [answers[n][0].__name__ for n in (1, 3, 4)] == [
        "Internal",
        "DeadlineExceeded",
        "Cancelled",
    ]
    success, executed, failures = counted(at)
    assert (success, executed, sum(failures.values())) == (2, 2, 3)
    made.close()
    loaded.close()


def test_a_model_that_wants_more_than_arrays_is_called_the_usual_way(tmp_path: Path) -> None:
    """A context, a coroutine or other names: there is no function that could be called as it is."""
    texts = (
        "def predict(X: FP32[1, 2], context: Context) -> FP32[1, 2]: return X",
        "async def predict(X: FP32[1, 2]) -> FP32[1, 2]: return X",
        "def predict(x: FP32[1, 2].named('X')) -> FP32[1, 2]: return x",
        "def predict(X: FP32[1, 2]) -> tuple[FP32[1, 2], FP32[1, 2]]: return X, X",
    )
    for number, text in enumerate(texts):
        config, loaded = load(write_model(tmp_path / str(number), text))
        made = cast(Executable, loaded.executable(Placement("m_0")))
        pending = asked()

        execute_alone(desk(config), made, [pending])

        assert isinstance(made, Straight)
        assert made.straight is None, text
        assert told(pending)[0][2][0][2] == [[1.0, 1.0]]
        made.close()
        loaded.close()


def test_other_executables_are_executed_as_they_are(tmp_path: Path) -> None:
    """What has no function of its own to offer is given the request with its context."""
    config, loaded = load(write_model(tmp_path, "def predict(X: FP32[1, 2]) -> FP32[1, 2]: ..."))
    made, pending = FunctionExecutable(lambda x: x + 1), asked()

    execute_alone(desk(config), cast(Executable, _Renamed(made)), [pending])

    assert made.batches == [1]
    assert told(pending)[0][2][0][2] == [[2.0, 2.0]]
    loaded.close()


class _Renamed:
    """The same with its output as the model calls it."""

    def __init__(self, made: FunctionExecutable) -> None:
        self.made = made

    def execute(self, inputs: Any, contexts: Any) -> Any:
        return {"OUTPUT0": self.made.execute(inputs, contexts)["Y"]}

    def close(self) -> None:
        self.made.close()
