"""The response cache of a whole server: tritonclient through a real socket, on each transport."""

import asyncio
import queue
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e.running import Running, ServerThread, options
from tests.transports import TRANSPORTS

from penstock import Client

MODEL = """import time
import numpy as np
from penstock import BYTES, FP32, model

RUN = {run}
CALLS = []

@model
def counted(
    X: FP32[-1], S: BYTES[1]
) -> tuple[FP32[-1].named("Y"), BYTES[1].named("T"), FP32[1].named("N")]:
    CALLS.append(1)
    time.sleep(0.2 if X[0] == 7 else 0)
    return X * RUN, S, np.array([len(CALLS)], np.float32)
"""
CACHED = "response_cache { enable: true }\n"


def write(root: Path, run: int) -> None:
    """Two models of one code: the second does not ask for the cache."""
    for name, config in (("counted", CACHED), ("plain", "")):
        folder = root / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(MODEL.format(run=run))
        (root / name / "config.pbtxt").write_text(config)


@pytest.fixture(params=TRANSPORTS)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A server with a cache."""
    write(tmp_path, 2)
    settings = options(
        [tmp_path],
        model_control_mode="explicit",
        load_model=("*",),
        cache_config=("local,size=1000000",),
        transport=request.param,
    )
    with ServerThread(settings) as made:
        yield made


def inputs(value: float, text: bytes = b"t", module: Any = triton) -> list[Any]:
    """The inputs of a request."""
    number = module.InferInput("X", [2], "FP32")
    number.set_data_from_numpy(np.array([value, 1.0], np.float32))
    string = module.InferInput("S", [1], "BYTES")
    string.set_data_from_numpy(np.array([text], dtype=np.object_))
    return [number, string]


def statistics(running: Running, client: Any, model: str = "counted") -> tuple[int, int, int, int]:
    """Successes, executions, hits and misses, once all is counted."""
    limit = time.monotonic() + 10
    while running.server.core.inflight and time.monotonic() < limit:
        time.sleep(0.001)
    (found,) = client.get_inference_statistics(model).model_stats
    told = found.inference_stats
    return (
        told.success.count,
        found.execution_count,
        told.cache_hit.count,
        told.cache_miss.count,
    )


def test_a_hit_is_the_same_answer_under_its_own_id(running: Running) -> None:
    """Equal requests are executed once, others each; the counters and metrics say so."""
    with triton.InferenceServerClient(running.target) as client:
        answers = [
            client.infer("counted", inputs(value, text), request_id=f"r{number}")
            for number, (value, text) in enumerate(
                [(1.0, b"a"), (1.0, b"a"), (1.0, b"b"), (2.0, b"a"), (1.0, b"a"), (1.0, b"b")]
            )
        ]
        counted = statistics(running, client)
        for _ in range(2):
            client.infer("plain", inputs(1.0))
        plain = statistics(running, client, "plain")

    assert [a.get_response().id for a in answers] == [f"r{n}" for n in range(6)]
    assert [float(a.as_numpy("N")[0]) for a in answers] == [1, 1, 2, 3, 1, 2]
    assert [a.as_numpy("T")[0] for a in answers] == [b"a", b"a", b"b", b"a", b"a", b"b"]
    assert answers[4].as_numpy("Y").tolist() == [2.0, 2.0]
    assert answers[4].get_response().model_version == "1"
    assert counted == (6, 3, 3, 3)
    assert plain == (2, 2, 0, 0)
    lines = scrape(running)
    assert 'nv_cache_num_hits_per_model{model="counted",version="1"} 3' in lines
    assert 'nv_cache_num_misses_per_model{model="counted",version="1"} 3' in lines
    assert "penstock_response_cache_entries 3" in lines
    assert not any(line.startswith("nv_cache") and "plain" in line for line in lines)


def scrape(running: Running) -> list[str]:
    """The lines of the metrics."""
    url = f"http://127.0.0.1:{running.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        lines: list[str] = reply.read().decode().splitlines()
    return lines


def test_equal_calls_at_one_time_share_an_execution(running: Running) -> None:
    """While one is executed for 0.2 s, the others wait for it; each gets its own id."""

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(running.target) as client:
            calls = [
                client.infer("counted", inputs(7.0, module=triton_aio), request_id=str(number))
                for number in range(20)
            ]
            return list(await asyncio.gather(*calls))

    answers = asyncio.run(ask())

    assert [a.get_response().id for a in answers] == [str(n) for n in range(20)]
    assert {float(a.as_numpy("N")[0]) for a in answers} == {1.0}
    with triton.InferenceServerClient(running.target) as client:
        assert statistics(running, client) == (20, 1, 19, 1)
    assert running.server.services.budget.used == 0


def test_a_caller_that_goes_away_takes_nobody_along(running: Running) -> None:
    """Its call ends at its deadline, and the equal ones have their answers."""

    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(running.target) as client:
            first = asyncio.ensure_future(
                client.infer("counted", inputs(7.0, module=triton_aio), client_timeout=0.05)
            )
            await asyncio.sleep(0.02)
            calls = [client.infer("counted", inputs(7.0, module=triton_aio)) for _ in range(5)]
            return list(await asyncio.gather(first, *calls, return_exceptions=True))

    first, *others = asyncio.run(ask())

    assert isinstance(first, Exception)
    assert all(a.as_numpy("Y").tolist() == [14.0, 2.0] for a in others)
    assert running.server.services.budget.used == 0


def test_a_reload_under_load_never_gives_an_answer_of_before(
    running: Running, tmp_path: Path
) -> None:
    """Once the load call has returned, every answer is the new model's; none fails."""
    with triton.InferenceServerClient(running.target) as client:
        for run in (3, 4, 5):
            client.infer("counted", inputs(1.0))
            write(tmp_path, run)
            client.load_model("counted")
            answers = [client.infer("counted", inputs(1.0)).as_numpy("Y") for _ in range(5)]

            assert all(answer.tolist() == [run, run] for answer in answers)
        limit = time.monotonic() + 10
        while entries(running) > 1 and time.monotonic() < limit:
            time.sleep(0.01)
    assert entries(running) == 1


def entries(running: Running) -> int:
    """How many responses the server keeps."""
    assert running.server.cache is not None
    return running.server.cache.stats().entries


def test_a_stream_is_answered_from_the_cache_in_its_order(running: Running) -> None:
    """A hit does not overtake the slow request before it."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(running.target) as client:
        client.infer("counted", inputs(1.0))
        client.start_stream(lambda result, error: answers.put(error or result))
        for number, value in enumerate((7.0, 1.0, 7.0, 1.0)):
            client.async_stream_infer("counted", inputs(value), request_id=str(number))
        found = [answers.get(timeout=10) for _ in range(4)]
        client.stop_stream()
        counted = statistics(running, client)

    assert [a.get_response().id for a in found] == ["0", "1", "2", "3"]
    assert [float(a.as_numpy("Y")[0]) for a in found] == [14.0, 2.0, 14.0, 2.0]
    assert counted == (5, 2, 3, 2)


def test_a_response_says_that_it_is_a_hit_if_it_is_asked(running: Running) -> None:
    """Beside its times, under the parameter that asks for these."""
    with Client(running.target) as client:
        wanted = {"X": np.array([1.0, 1.0], np.float32), "S": np.array([b"t"], np.object_)}
        told = [
            client.infer("counted", wanted, parameters={"penstock_timing": True}).timing
            for _ in range(2)
        ]

    assert [timing is not None and timing.cache_hit for timing in told] == [False, True]
