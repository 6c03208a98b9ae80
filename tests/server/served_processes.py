"""A server of several processes, and clients of which each has a connection of its own."""

import re
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import numpy as np
import tritonclient.grpc as triton
from tests.server_process import ServerProcess

TWO = "--processes=2"
POLL = ("--model-control-mode=poll", "--repository-poll-secs=600")
# Takes a while to load, sleeps as long as it is told, and answers by whom. What it writes is not in
# the repository: a folder that changes is not loaded until it has come to rest.
MODEL = """
import os
import pathlib
import time

import numpy as np

time.sleep(0.2)

def predict(IN):
    time.sleep(float(IN[0]))
    with open(pathlib.Path(__file__).parents[3] / "executed", "a") as file:
        file.write(".")
    return {"OUT": np.array([os.getpid()], np.float32)}
"""
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
TIMEOUT_S = 30.0


class Connection:
    """A client with a connection of its own."""

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, channel_args=OWN_CONNECTION)

    def call(self, seconds: float = 0.0) -> int:
        """Call the model; the process that answered."""
        tensor = triton.InferInput("IN", [1], "FP32")
        tensor.set_data_from_numpy(np.array([seconds], np.float32))
        return int(self._client.infer("pid", [tensor]).as_numpy("OUT")[0])

    def has(self, model: str) -> bool:
        """Whether the model serves in the process at the other end."""
        return bool(self._client.is_model_ready(model))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


class Caller(threading.Thread):
    """Calls on a connection of its own until it is refused or told to stop."""

    def __init__(self, address: str, seconds: float = 0.01, times: int = 1 << 30) -> None:
        super().__init__(daemon=True)
        self._connection = Connection(address)
        self._seconds, self._times = seconds, times
        self.answered = 0
        self.error: Any = None
        self.start()

    def run(self) -> None:
        """What the thread does."""
        try:
            while self.answered < self._times:
                self._connection.call(self._seconds)
                self.answered += 1
        except triton.InferenceServerException as error:
            self.error = error
        finally:
            self._connection.__exit__()


class Served:
    """A server of several processes that is ready."""

    def __init__(self, server: ServerProcess, root: Path | None = None) -> None:
        self.server = server
        self.root = root
        self.address = server.address()
        found = re.search(r":(\d+)/metrics", server.wait_for("metrics on"))
        assert found is not None
        self._port = int(found[1])
        server.wait_for("ready: all")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the metrics port."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def value(self, name: str, labels: str = "") -> float:
        """The sum of the samples of this name whose labels match an expression."""
        sample = re.compile(rf"^{name}\{{.*{labels}.*\}} (\S+)$", re.MULTILINE)
        return sum(map(float, sample.findall(self.get("/metrics")[1])))

    def pids(self) -> set[int]:
        """The processes of the server but the supervisor."""
        pid = self.server.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def find(self, pid: int) -> Connection:
        """A connection to this process."""
        for _ in range(100):
            connection = Connection(self.address)
            if connection.call() == pid:
                return connection
            connection.__exit__()
        raise AssertionError(f"none of 100 connections reached process {pid}")


def is_gone(pid: int) -> bool:
    """Whether the process has ended, be it that nobody has asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_free(address: str) -> bool:
    """Whether nobody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
