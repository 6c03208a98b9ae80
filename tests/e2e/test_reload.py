"""Laws of reloading under load: no failed request, no wrong answer, memory back where it began."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from benchmarks.reload import Tally, call_on, reload, write_model
from benchmarks.server import Measured
from benchmarks.server import running as running_process
from tests.e2e.running import Running, ServerThread, options

from penstock import AsyncClient, Client, InferenceError
from penstock.client.retry import NO_RETRIES

CODE = """import numpy as np
from penstock import FP32, model

@model(max_batch_size=8)
class Model:
    def load(self, args):
        self.weights = np.full(250_000, {value}, np.float32)

    def predict(self, X: FP32[1]) -> FP32[1]:
        return X + self.weights[0]
"""


def write(root: Path, value: float) -> None:
    """Publish the model's code atomically, as a deployment would."""
    folder = root / "adder" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / ".model.py.new"
    staged.write_text(CODE.format(value=value))
    os.replace(staged, folder / "model.py")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server in explicit mode that serves `adder`."""
    write(tmp_path, 0)
    settings = options([tmp_path], model_control_mode="explicit", load_model=("adder",))
    with ServerThread(settings) as made:
        yield made


def test_two_hundred_reloads_under_32_clients_fail_nobody(tmp_path: Path) -> None:
    """Each answer is one of a load that served while the call was inside, and memory comes back."""

    async def main(server: Measured) -> tuple[Tally, float, float]:
        tally = Tally()
        async with AsyncClient(server.url, retries=NO_RETRIES) as client:
            callers = [asyncio.create_task(call_on(client, tally, i)) for i in range(32)]
            await reload(client, tally, tmp_path, 20)
            before = server.resident_mb()
            await reload(client, tally, tmp_path, 180)
            tally.ended = True
            await asyncio.gather(*callers)
        return tally, before, server.resident_mb()

    write_model(tmp_path, 0)
    flags = ("--model-control-mode=explicit", "--load-model=reloaded")
    with running_process(tmp_path, *flags) as server:
        tally, before, after = asyncio.run(main(server))

    assert (tally.failed, tally.first_failure) == (0, "")
    assert tally.wrong == 0
    assert len(tally.latencies_ns) > 1000
    # Each load holds 8 MB: memory that did not come back would be 1.4 GB.
    assert after < before * 1.25 + 10


def test_a_corrupt_new_version_leaves_the_old_one_answering(
    running: Running, tmp_path: Path
) -> None:
    """The reload fails with a reason, the index shows it, the old version goes on."""
    (tmp_path / "adder" / "1" / "model.py").write_text("this is not Python")

    with Client(running.target) as client:
        with pytest.raises(InferenceError) as refused:
            client.load("adder")
        result = client.infer("adder", {"X": np.array([[1.0]], np.float32)})
        index = client.index()

    assert float(result["OUTPUT0"][0, 0]) == 1.0
    assert "adder" in refused.value.message
    assert str(tmp_path) not in refused.value.message
    assert [entry.state for entry in index] == ["READY"]
    assert index[0].reason != ""


def threads() -> int:
    """Threads but those of the pool for repository calls, which grows to its bound as it likes."""
    return sum(not thread.name.startswith("penstock-admin") for thread in threading.enumerate())


def test_threads_and_descriptors_return_after_reloads(running: Running, tmp_path: Path) -> None:
    """Thirty reloads leave as many threads and open files as there were."""
    process = psutil.Process()
    with Client(running.target) as client:
        client.load("adder")
        before = (threads(), process.num_fds())
        for value in range(30):
            write(tmp_path, value)
            client.load("adder")
        deadline = time.monotonic() + 10
        while threads() > before[0] and time.monotonic() < deadline:
            time.sleep(0.05)

    assert threads() <= before[0]
    assert process.num_fds() <= before[1] + 2
