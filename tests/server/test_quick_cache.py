"""Quick calls of a model with a response cache: known kinds of requests, hits, misses and callers
that go away.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.fakes_server import FakeCall, FakeQuickCall, answered_quickly

from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import decode_response
from penstock.config import ServerOptions
from penstock.config_text import parse_config_text
from penstock.parts import repository_options
from penstock.services import Services, build_services
from penstock.transport.base import QuickHandler
from penstock_runtime.assembly import open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.response_cache import ResponseCache
from penstock_runtime.tensor import tensor

# A request from 100 on is executed until the file `go` is there.
CODE = """import time
from pathlib import Path
from penstock import FP32, model

GO = Path(__file__).parents[2] / "go"

@model
def double(X: FP32[-1]) -> FP32[-1]:
    while X[0] >= 100 and not GO.exists():
        time.sleep(0.002)
    return X * 2
"""


@pytest.fixture
def core(tmp_path: Path) -> Iterator[InferenceCore]:
    """An engine with one model that has the cache."""
    (tmp_path / "double" / "1").mkdir(parents=True)
    (tmp_path / "double" / "1" / "model.py").write_text(CODE)
    (tmp_path / "double" / "config.pbtxt").write_text("response_cache { enable: true }")
    options = ServerOptions(model_repository=(str(tmp_path),), model_control_mode="explicit")
    repository = open_repository(
        repository_options(options), {"config.pbtxt": parse_config_text}, cache=ResponseCache(10**6)
    )
    repository.start()
    made = InferenceCore(repository)
    made.load("double", LoadOverrides())
    yield made
    made.stop(10.0)


def submit_of(services: Services) -> QuickHandler:
    method = next(m for m in services.methods if m.path.endswith("GRPCInferenceService/ModelInfer"))
    assert method.submit is not None
    return method.submit


def body(value: float, request_id: str) -> bytes:
    array = np.array([value, 1.0], np.float32)
    return encode_request(InferRequest("double", (tensor("X", array),), "", request_id))


async def answer(services: Services, value: float, request_id: str) -> InferResponse:
    reply = await answered_quickly(submit_of(services), body(value, request_id), FakeCall())
    return decode_response(reply)


async def counts(core: InferenceCore) -> tuple[int, int, int, int, int]:
    """Successes, failures, executions, hits and misses, once all is counted."""
    limit = time.monotonic() + 10
    while core.inflight and time.monotonic() < limit:
        await asyncio.sleep(0.001)
    found = core.statistics("double")[0]
    hits, misses = found.cache_hit.count, found.cache_miss.count
    return found.success.count, found.fail.count, found.execution_count, hits, misses


@pytest.mark.asyncio
async def test_requests_of_a_known_kind_are_answered_from_the_cache(core: InferenceCore) -> None:
    """The first of its kind on the careful path as much as the others on the short one."""
    services = build_services(core, ServerOptions())

    for number in range(12):
        response = await answer(services, float(number % 3), f"r{number}")

        assert response.id == f"r{number}"
        assert response.outputs[0].numpy().tolist() == [2.0 * (number % 3), 2.0]

    assert await counts(core) == (12, 0, 3, 9, 3)
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_equal_requests_of_a_known_kind_are_executed_once(
    core: InferenceCore, tmp_path: Path
) -> None:
    """Handed over together, and each answered under its own id."""
    services = build_services(core, ServerOptions())
    for number in range(4):
        await answer(services, float(number), "")

    asked = [asyncio.ensure_future(answer(services, 100.0, str(n))) for n in range(50)]
    await asyncio.sleep(0.02)
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*asked)

    assert [response.id for response in answers] == [str(n) for n in range(50)]
    assert all(r.outputs[0].numpy().tolist() == [200.0, 2.0] for r in answers)
    assert await counts(core) == (54, 0, 5, 49, 5)
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_a_quick_caller_that_goes_away_takes_nobody_along(
    core: InferenceCore, tmp_path: Path
) -> None:
    """Whether it is the one that is executed or one that waits."""
    services = build_services(core, ServerOptions())
    for number in range(4):
        await answer(services, float(number), "")
    gone = [FakeQuickCall(), FakeQuickCall()]
    submit = submit_of(services)
    submit(body(101.0, "leader"), gone[0])
    await asyncio.sleep(0)
    submit(body(101.0, "follower"), gone[1])
    others = [asyncio.ensure_future(answer(services, 101.0, str(n))) for n in range(5)]
    await asyncio.sleep(0.02)

    for call in gone:
        assert call.on_cancel is not None
        call.on_cancel()
    (tmp_path / "go").touch()
    answers = await asyncio.gather(*others)

    assert [response.id for response in answers] == [str(n) for n in range(5)]
    success, fail, _, hits, misses = await counts(core)
    assert (success, fail, hits, misses) == (9, 2, 4, 6)
    assert (services.budget.used, services.gate.inflight) == (0, 0)
