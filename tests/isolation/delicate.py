"""Models that do to their processes what they should not, and how tests ask them."""

import threading
from typing import Self

import numpy as np
from tests.e2e.running import Running

from penstock import Client, InferenceError
from penstock.client.retry import NO_RETRIES

DELICATE = """
@model(max_batch_size=8, batching={"max_queue_delay_microseconds": 50_000})
class Model:
    def load(self):
        while (HERE / "hold").exists():
            time.sleep(0.005)

    def predict(self, x: FP32[1]) -> FP32[1]:
        if (x < 0).any():
            (HERE / "begun").touch()
            time.sleep(60)
        if (x == 13).any():
            os._exit(3)
        return x + 1
"""
STEADY = """
@model(max_batch_size=8)
def predict(x: FP32[1]) -> FP32[1]:
    return x * 2
"""
STREAMS = """
def predict(n: INT32[1]) -> Iterator[INT32[1]]:
    try:
        for i in range(int(n[0])):
            yield np.array([i], np.int32)
            if i == 7:
                (HERE / "seventh").touch()
    finally:
        (HERE / "closed").touch()
"""
DOOMED = """
class Model:
    def load(self):
        if (HERE / "spoiled").exists():
            raise ValueError("no more of this")

    def predict(self, x: FP32[1]) -> FP32[1]:
        return x
"""
PAIR = """
@model(max_batch_size=8)
class Model:
    def load(self):
        while (HERE / "hold").exists():
            time.sleep(0.005)

    def predict(self, x: INT64[1]) -> INT64[1]:
        if (x == 0).all():
            (HERE / f"warm-{os.getpid()}").touch()
        return x * 0 + os.getpid()
"""
WARM = """
model_warmup [ { name: "w" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_INT64 dims: [ 1 ] zero_data: true } } } ]
"""
HANGS = """
def predict(x: FP32[1]) -> FP32[1]:
    if x[0] < 0:
        time.sleep(60)
    return x
"""


def pid_of(running: Running, name: str) -> int:
    """The process of a model's first instance; 0 for none."""
    process = running.server.core.model(name).instances[0].process
    assert process is not None
    return process.pid or 0


def ask(client: Client, name: str, value: float) -> float:
    """One value in and out."""
    result = client.infer(name, {"x": np.array([[value]], np.float32)}, timeout=30)
    return float(result["OUTPUT0"].reshape(-1)[0])


def ask_one(client: Client, name: str, value: float) -> float:
    """The same for a model that does not batch."""
    result = client.infer(name, {"x": np.array([value], np.float32)}, timeout=30)
    return float(result["OUTPUT0"][0])


class Load:
    """Calls of a model one after the other, until told to stop."""

    def __init__(self, target: str, name: str) -> None:
        self.answers: list[float] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(target, name))

    def _run(self, target: str, name: str) -> None:
        with Client(target, retries=NO_RETRIES) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(ask(client, name, len(self.answers) % 100))
                except InferenceError as error:
                    self.failures.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def pids_of(running: Running, name: str) -> list[int]:
    """The processes of a model's instances."""
    instances = running.server.core.model(name).instances
    return [i.process.pid or 0 for i in instances if i.process is not None]


def groups(kind: str, count: int = 1) -> str:
    """A configuration for a load."""
    return f'{{"instance_group": [{{"kind": "{kind}", "count": {count}}}]}}'
