"""Models that promise not to wait, executed in the event loop of a whole server."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.running import Running, ServerThread, options
from tests.transports import chosen

from penstock import AsyncClient, Client, InferenceError
from penstock.client.retry import NO_RETRIES

CODE = """import threading
import time
import numpy as np
from penstock import FP32, model
from penstock_runtime.errors import InvalidArgument

@model
def tell(X: FP32[-1, 2]) -> FP32[-1, 2]:
    if X[0, 0] < 0:
        raise InvalidArgument("X is below 0")
    if X[0, 0] == 99:
        time.sleep(0.05)
    return np.array([[X[0, 0] * {factor}, (threading.get_ident() >> 12) % 65521]], np.float32)
"""
IN_PLACE = "instance_group [ { kind: KIND_CPU count: 1 in_place: true } ]\n"


def write(root: Path, name: str, *, config: str = "", factor: int = 2) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(CODE.format(factor=factor))
    if config:
        (root / name / "config.pbtxt").write_text(config)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server in explicit mode with the same model in place and in its thread."""
    write(tmp_path, "here", config=IN_PLACE)
    write(tmp_path, "there")
    settings = options([tmp_path], model_control_mode="explicit", load_model=("here", "there"))
    with ServerThread(settings) as made:
        yield made


def ask(client: Client, name: str, value: float) -> tuple[float, int]:
    array = client.infer(name, {"X": np.array([[value, 0]], np.float32)})["OUTPUT0"]
    return float(array[0, 0]), int(array[0, 1])


def loop_of(running: Running) -> int:
    """The loop's thread, as the model tells its own."""

    async def told() -> int:
        return (threading.get_ident() >> 12) % 65521

    return asyncio.run_coroutine_threadsafe(told(), running.loop).result(20)


def test_a_model_that_is_known_to_be_short_is_executed_in_the_loop(running: Running) -> None:
    """On the transport that has quick calls; its twin without the promise never is."""
    with Client(running.target, retries=NO_RETRIES) as client:
        found = {name: [ask(client, name, 3) for _ in range(40)] for name in ("here", "there")}
        config = client.model_config("here")

    assert {value for answers in found.values() for value, _ in answers} == {6.0}
    loop = loop_of(running)
    assert loop not in {thread for _, thread in found["there"]}
    assert (found["here"][-1][1] == loop) == (chosen() == "http2")
    assert config.instance_group[0].in_place


def test_an_error_in_the_loop_is_its_callers_alone(running: Running) -> None:
    """With the status that it has anywhere."""
    with Client(running.target, retries=NO_RETRIES) as client:
        for _ in range(20):
            assert ask(client, "here", 1)[0] == 2
            with pytest.raises(InferenceError, match="X is below 0"):
                ask(client, "here", -1)
        statistics = client.statistics("here")[0].inference_stats

    assert statistics.success.count == 20
    assert statistics.fail.count == 20


def test_many_callers_get_their_own_answers_through_a_reload(
    running: Running, tmp_path: Path
) -> None:
    """Each of a version that served while it asked; nobody fails."""

    async def call(client: AsyncClient, number: int) -> set[float]:
        found = set()
        for _ in range(60):
            sent = np.array([[number, 0]], np.float32)
            answer = (await client.infer("here", {"X": sent}))["OUTPUT0"]
            found.add(float(answer[0, 0]) / number)
        return found

    async def main() -> set[float]:
        async with AsyncClient(running.target, retries=NO_RETRIES) as client:
            callers = [asyncio.create_task(call(client, n)) for n in range(1, 17)]
            for factor in (3, 4, 5):
                write(tmp_path, "here", config=IN_PLACE, factor=factor)
                await client.load("here")
            last = await call(client, 20)
            return set.union(*await asyncio.gather(*callers)) | last

    found = asyncio.run(main())
    assert found <= {2.0, 3.0, 4.0, 5.0}
    assert 5.0 in found


@pytest.mark.skipif(chosen() != "http2", reason="only quick calls are executed in place")
def test_a_broken_promise_costs_the_place_in_the_loop(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """From then on others are served while it takes its time."""
    with Client(running.target, retries=NO_RETRIES) as client:
        before = [ask(client, "here", 1)[1] for _ in range(40)][-1]
        ask(client, "here", 99)
        after = ask(client, "here", 1)[1]

    assert before == loop_of(running)
    assert after != before
    assert "is to be executed in place and took" in caplog.text
