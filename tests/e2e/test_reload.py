"""Laws of reloading under load: no failed request, no wrong answer, memory back where it began."""

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.e2e.running import Running, ServerThread, options

from penstock import Client, InferenceError

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


def test_two_hundred_reloads_under_32_clients_fail_nobody(running: Running, tmp_path: Path) -> None:
    """Each answer is one of a version that served while the request was inside."""
    done, wrong, failed, answered = threading.Event(), [], [], [0] * 32
    newest = 0

    def ask(number: int) -> None:
        with Client(running.target) as client:
            while not done.is_set():
                oldest = newest
                try:
                    result = client.infer("adder", {"X": np.array([[1.0]], np.float32)})
                except InferenceError as error:
                    failed.append(error)
                    continue
                value = float(result["OUTPUT0"][0, 0]) - 1
                if not oldest <= value <= newest + 1:
                    wrong.append((oldest, value, newest))
                answered[number] += 1

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in clients:
        thread.start()
    with Client(running.target) as control:
        memory = []
        for value in range(1, 201):
            write(tmp_path, value)
            control.load("adder", timeout=60)
            newest = value
            if value in (20, 200):
                gc.collect()
                memory.append(psutil.Process().memory_info().rss)
    done.set()
    for thread in clients:
        thread.join()

    assert failed == []
    assert wrong == []
    assert min(answered) > 0
    assert memory[1] - memory[0] < 60e6


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


def test_threads_and_descriptors_return_after_reloads(running: Running, tmp_path: Path) -> None:
    """Thirty reloads leave as many threads and open files as there were."""
    process = psutil.Process()
    with Client(running.target) as client:
        client.load("adder")
        before = (threading.active_count(), process.num_fds())
        for value in range(30):
            write(tmp_path, value)
            client.load("adder")
        deadline = time.monotonic() + 10
        while threading.active_count() > before[0] and time.monotonic() < deadline:
            time.sleep(0.05)

    assert threading.active_count() <= before[0]
    assert process.num_fds() <= before[1] + 2
