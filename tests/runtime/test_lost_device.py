"""Laws of a GPU that is lost to the process: CUDA says so, nobody is tried again on it, and its
instances leave the work to others.
"""

import logging
from typing import Any

import numpy as np
import pytest
from tests.runtime.fakes import FakeLoaded, FunctionExecutable, pending
from tests.runtime.test_instance import OneBatch, instance

from penstock_runtime.backends.base import Placement, RequestExecutable, Staged
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.backends.lost_device import lost_device
from penstock_runtime.errors import InstanceDied, Internal, PenstockError, Unavailable
from penstock_runtime.scheduling.gate import Gate

TORCH = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
CUPY = "CUDA_ERROR_MISALIGNED_ADDRESS: misaligned address"


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (TORCH, "an illegal memory access was encountered"),
        (CUPY, "misaligned address"),
        ("cudaErrorLaunchFailure: unspecified launch failure", "unspecified launch failure"),
        ("CUDA error: device-side assert triggered", "device-side assert triggered"),
        ("CUDA out of memory. Tried to allocate 2.00 MiB", ""),
        ("CUDA error: operation not permitted when stream is capturing", ""),
        ("my model says: misaligned address", ""),
    ],
)
def test_a_lost_gpu_is_known_by_what_cuda_says(text: str, how: str) -> None:
    """By torch or by CuPy; an error after which it may go on is none, nor is a model's own."""
    assert lost_device(RuntimeError(text)) == how


def test_whoever_was_there_when_a_gpu_was_lost_is_not_tried_again() -> None:
    """The caller is told that another server might do it."""
    lost = execution_failure(RuntimeError(TORCH), "m")
    other = execution_failure(RuntimeError("no such row"), "m")

    assert isinstance(lost, InstanceDied)
    assert lost.reason == "DEVICE_LOST"
    assert "illegal memory access" in lost.message
    assert type(other) is Internal


class Lost(FunctionExecutable, Staged):
    """An executable whose GPU is lost in its first execution."""

    deck = None

    def execute(self, inputs: Any, contexts: Any) -> Any:
        self.batches.append(len(contexts))
        self.lost = lost_device(RuntimeError(TORCH))
        raise execution_failure(RuntimeError(TORCH), "m")


class OnLostGpu(FakeLoaded):
    """All of whose instances are of that kind."""

    def executable(self, placement: Placement) -> FunctionExecutable:
        self.executables.append(Lost(self.function))
        return self.executables[-1]


class Losing(OneBatch):
    """A scheduler that hears of instances that are gone, and would always have more to do."""

    stopped = False

    def __init__(self, *members: Any) -> None:
        super().__init__(*members)
        self.heard: list[PenstockError] = []
        self.asked = 0

    def next_work(self, gate: Gate, *, several: bool = False) -> Any:
        self.asked += 1
        return super().next_work(gate, several=several)

    def dismiss(self, gate: Gate) -> None: ...

    def readmit(self, gate: Gate) -> None: ...

    def away(self, gate: Gate) -> None: ...

    def lose(self, error: PenstockError, gate: Gate) -> None:
        self.heard.append(error)


def test_an_instance_whose_gpu_is_lost_leaves_the_work_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would answer everything at once, with errors. Each request of its batch got one, it says
    that it is not healthy, and the log what is to be done.
    """
    members = [pending(), pending()]
    for one in members:
        one.arrays = {"X": np.zeros((1, 2), np.float32)}
    loaded, scheduler = OnLostGpu(lambda array: array), Losing(*members)
    made = instance(loaded, scheduler)

    with caplog.at_level(logging.CRITICAL):
        made.start()
        ended = made.join(30)

    assert ended
    assert not made.healthy
    assert loaded.executables[0].batches == [2]
    assert loaded.executables[0].closed
    assert scheduler.asked == 1
    assert [type(error) for error in scheduler.heard] == [Unavailable]
    assert caplog.text.count("has to be started again") == 1
    for one in members:
        with pytest.raises(InstanceDied):
            one.stream.pop()


class LostByRequests(RequestExecutable):
    """A language model, say, whose engine has found its GPU lost with the first request."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed = False

    @property
    def lost(self) -> str:
        return "misaligned address" if self.asked else ""

    def execute_requests(self, tasks: Any) -> None:
        self.asked += len(tasks)
        for task in tasks:
            task.fail(InstanceDied("it has lost its GPU", reason="DEVICE_LOST", scheduled=True))

    def finalize(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def test_an_instance_that_answers_by_requests_leaves_as_well() -> None:
    """Else it would be the first to take every request, and refuse it."""
    executable = LostByRequests()
    loaded = FakeLoaded(lambda array: array)
    loaded.executable = lambda placement: executable  # type: ignore[assignment,return-value]
    member = pending()
    member.arrays = {"X": np.zeros((1, 2), np.float32)}
    scheduler = Losing(member)
    made = instance(loaded, scheduler)

    made.start()
    ended = made.join(30)

    assert ended
    assert executable.closed
    assert executable.asked == scheduler.asked == 1
    assert not made.healthy
    assert [error.reason for error in scheduler.heard] == ["DEVICE_LOST"]
