"""Laws of requests that nobody waits for any more, over real calls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.running import Running, ServerThread, options

from penstock import AsyncClient, InferenceError
from penstock.client.retry import NO_RETRIES
from penstock_runtime.errors import FailureReason
from penstock_runtime.model import Model

CODE = """import time
from pathlib import Path
from typing import Any
from penstock import FP32, model

@model
class Held:
    def load(self, args):
        self.go = args.root / "go"

    def predict(self, X: FP32[1]) -> FP32[1]:
        while not self.go.exists():
            time.sleep(0.005)
        return X
"""
X = {"X": np.ones(1, np.float32)}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server whose one model executes nothing to its end before the file `go` is there."""
    folder = tmp_path / "held" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(CODE)
    with ServerThread(options([tmp_path])) as made:
        yield made


def test_a_thousand_cancelled_and_a_thousand_expired_calls_leave_nothing(
    running: Running, tmp_path: Path
) -> None:
    """None is executed, each is counted once, and queues, budgets and counters are back at zero."""
    served = running.server.core.model("held")

    def taken() -> int:
        expired = served.statistics.snapshot().failures[FailureReason.REJECTED]
        return expired + served.queue_stats().requests

    async def main() -> tuple[int, int]:
        async with AsyncClient(running.target, retries=NO_RETRIES, timeout=60) as client:
            blocker = asyncio.create_task(client.infer("held", X))
            await until(lambda: served.unanswered == 1 and not served.queue_stats().requests)
            calls = [asyncio.create_task(client.infer("held", X)) for _ in range(1000)]
            await until(lambda: served.queue_stats().requests == 1000)
            for call in calls:
                call.cancel()
            cancelled = await outcomes(calls)
            await until(lambda: not served.queue_stats().requests)
            late: list[asyncio.Task[Any]] = []
            for sent in range(100, 1100, 100):
                # So few at a time that the server reads each deadline soon after its client set it.
                late += [
                    asyncio.create_task(client.infer("held", X, timeout=1)) for _ in range(100)
                ]
                while taken() < sent:
                    await asyncio.sleep(0.005)
            expired = await outcomes(late)
            (tmp_path / "held" / "go").touch()
            await blocker
            return cancelled, expired

    cancelled, expired = asyncio.run(main())
    asyncio.run(until(lambda: is_idle(running, served)))

    assert (cancelled, expired) == (1000, 1000)
    snapshot = served.statistics.snapshot()
    assert snapshot.execution_count == 1
    assert snapshot.failures[FailureReason.CANCELED] == 1000
    assert snapshot.failures[FailureReason.REJECTED] == 1000


async def outcomes(calls: Sequence["asyncio.Task[Any]"]) -> int:
    """How many of the calls were cancelled or ran out of time."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    given_up = [r for r in results if isinstance(r, asyncio.CancelledError)]
    late = [r for r in results if isinstance(r, InferenceError) and "DEADLINE" in r.status.value]
    return len(given_up) + len(late)


def is_idle(running: Running, served: Model) -> bool:
    """Whether nothing of any request is left anywhere."""
    services = running.server.services
    return (
        services.gate.inflight == 0
        and services.budget.used == 0
        and running.server.core.inflight == 0
        and served.queue_stats().requests == 0
    )


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until something holds."""

    async def wait() -> None:
        while not holds():
            await asyncio.sleep(0.005)

    waiting: Awaitable[None] = wait()
    await asyncio.wait_for(waiting, within_s)
