"""Models written for Triton's Python backend, each instance in a process of its own: what they may
use of their server is on the other side, and works as it does beside it.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options
from tests.isolation.folders import wait_for, write_model
from tests.triton_python.serving import MODELS, Stream
from tests.triton_python.test_models import (  # noqa: F401 - laws that hold here as well
    test_a_model_answers_each_request_by_itself,
    test_a_model_calls_another,
    test_a_model_iterates_over_the_responses_of_another,
    test_a_model_says_whether_it_is_ready,
    test_a_model_sees_that_its_caller_gave_up,
    test_a_request_that_is_forgotten_fails,
    test_calls_that_could_never_end_are_refused,
    test_metrics_of_a_model_are_told_while_it_is_loaded,
    test_responses_come_from_a_thread_after_execute,
)

NEEDED = ("add_sub", "calls", "counts", "hooks", "itself", "streams", "repeat", "waits", "senders")

KEEPER = """
from pathlib import Path

import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.kept = []

    def execute(self, requests):
        self.kept += [request.get_response_sender() for request in requests]
        # So that a test knows what this process has in hand, and what only waits for it.
        with Path(__file__).with_name("kept").open("a") as file:
            file.write("." * len(requests))
        return [None] * len(requests)
"""
ASKER = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.ask(request) for request in requests]

    def ask(self, request):
        asked = pb_utils.InferenceRequest(
            model_name="keeper", inputs=request.inputs(), requested_output_names=["Y"]
        )
        response = asked.exec()
        if response.has_error():
            raise pb_utils.TritonModelException("keeper said: " + response.error().message())
        return pb_utils.InferenceResponse(response.output_tensors())
"""
TENSORS = """
backend: "python"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the models, all of them apart."""
    root = tmp_path_factory.mktemp("apart")
    for name in NEEDED:
        shutil.copytree(MODELS / name, root / name)
        config = root / name / "config.pbtxt"
        config.write_text(config.read_text().replace("KIND_CPU", "KIND_PROCESS"))
    write_model(root, "keeper", KEEPER, more=TENSORS, header="")
    write_model(root, "asker", ASKER, more=TENSORS, header="")
    settings = options(
        [root], model_control_mode="explicit", load_model=("*",), exit_timeout_secs=1
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A client of Triton's."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def test_all_of_them_are_apart(running: Running) -> None:
    """Each instance has a process, and no two have the same."""
    models = running.server.core.repository.models()
    pids = [i.process.pid for m in models for i in m.instances if i.process is not None]

    assert len(pids) == sum(len(model.instances) for model in models)
    assert None not in pids
    assert len(set(pids)) == len(pids)


def kill(running: Running, name: str) -> None:
    """End the process of a model's only instance."""
    process = running.server.core.model(name).instances[0].process
    assert process is not None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


def unanswered(running: Running, name: str) -> int:
    """Requests of a model without a last answer."""
    return running.server.core.model(name).unanswered


def kept(running: Running) -> int:
    """Requests that the keeper has been handed in this test."""
    root = Path(running.server.options.model_repository[0])
    path = root / "keeper" / "1" / "kept"
    return path.stat().st_size if path.exists() else 0


@pytest.fixture(autouse=True)
def nothing_kept(running: Running) -> None:
    """What was handed over in earlier tests does not count."""
    path = Path(running.server.options.model_repository[0]) / "keeper" / "1" / "kept"
    path.unlink(missing_ok=True)


X = {"X": np.ones(30_000, np.float32)}


def test_requests_that_a_model_has_kept_are_answered_when_its_process_is_killed(
    running: Running, client: Any
) -> None:
    """All that it had in hand is UNAVAILABLE, and nothing is counted as unanswered."""
    stream = Stream(client)
    for _ in range(3):
        stream.send("keeper", X)
    in_hand = wait_for(lambda: kept(running) == 3)

    kill(running, "keeper")
    errors = [str(stream.next()[1]) for _ in range(3)]
    client.stop_stream()

    assert in_hand
    assert all("SIGKILL" in error for error in errors)
    assert wait_for(lambda: client.is_model_ready("keeper"))
    assert unanswered(running, "keeper") == 0


def test_calls_of_a_process_that_is_killed_are_given_up(running: Running, client: Any) -> None:
    """What it had asked of another model is cancelled there, and waits for nothing any more."""
    stream = Stream(client)
    stream.send("asker", X)
    asks = wait_for(lambda: kept(running) == 1)

    kill(running, "asker")
    error = str(stream.next()[1])
    client.stop_stream()

    assert asks
    assert "SIGKILL" in error
    assert wait_for(lambda: unanswered(running, "keeper") == 0)
    assert wait_for(lambda: client.is_model_ready("asker"))


def test_a_model_hears_that_the_process_of_the_one_it_asked_was_killed(
    running: Running, client: Any
) -> None:
    """The call has an error, as any other that fails; the caller's process is none the worse."""
    stream = Stream(client)
    stream.send("asker", X)
    assert wait_for(lambda: kept(running) == 1)

    kill(running, "keeper")
    error = str(stream.next()[1])
    client.stop_stream()

    assert "keeper said" in error
    assert "SIGKILL" in error
    assert client.is_model_ready("asker")
    assert wait_for(lambda: client.is_model_ready("keeper"))
