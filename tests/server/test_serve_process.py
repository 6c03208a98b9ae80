"""The process starts at once, obeys signals, loses nothing it accepted, and says what is wrong."""

import queue
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.server.served_processes import wait_until
from tests.server_process import server_process, write_model

ECHO = "def predict(IN):\n    return {'OUT': IN}\n"
SLOW = """
import pathlib
import time

HERE = pathlib.Path(__file__).parent

def predict(IN):
    (HERE / "begun").touch()
    time.sleep(float(IN[0]))
    with open(HERE / "executed", "a") as file:
        file.write(".")
    return {"OUT": IN}
"""


def value(number: float) -> triton.InferInput:
    """The input of a model."""
    tensor = triton.InferInput("IN", [1], "FP32")
    tensor.set_data_from_numpy(np.array([number], np.float32))
    return tensor


class Caller(threading.Thread):
    """Calls until it is refused; counts answers, and keeps the error that ended it."""

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self._address, self._seconds = address, seconds
        self.answered = 0
        self.error: Any = None

    def run(self) -> None:
        client = triton.InferenceServerClient(self._address)
        try:
            while True:
                client.infer("slow", [value(self._seconds)])
                self.answered += 1
        except triton.InferenceServerException as error:
            self.error = error
        finally:
            client.close()


def test_sigterm_under_load_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    """What was executed was answered; who came too late was told to go elsewhere; the end is 0."""
    executed = write_model(tmp_path, "slow", SLOW) / "1" / "executed"
    with server_process(tmp_path, "--drain-delay=0.1") as server:
        address = server.address()
        server.wait_for("ready")
        callers = [Caller(address, 0.01) for _ in range(16)]
        for caller in callers:
            caller.start()
        while not executed.exists() or executed.stat().st_size < 20:
            time.sleep(0.01)

        server.signal(signal.SIGTERM)
        for caller in callers:
            caller.join(30)

        assert server.exit_code() == 0
    assert executed.stat().st_size == sum(caller.answered for caller in callers)
    assert {caller.error.status() for caller in callers} == {"StatusCode.UNAVAILABLE"}


def test_a_request_on_a_stream_is_answered_before_the_end(tmp_path: Path) -> None:
    """SIGTERM lets the stream finish what it has, then ends it with a retryable status."""
    begun = write_model(tmp_path, "slow", SLOW) / "1" / "begun"
    with server_process(tmp_path) as server:
        client = triton.InferenceServerClient(server.address())
        server.wait_for("ready")
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("slow", [value(0.5)], request_id="last")
        wait_until(begun.exists, "it is executed")

        server.signal(signal.SIGTERM)
        (result, _), (_, error) = answers.get(timeout=30), answers.get(timeout=30)
        client.stop_stream()
        client.close()

        assert server.exit_code() == 0
    assert result.get_response().id == "last"
    assert error.status() == "StatusCode.UNAVAILABLE"


def test_sigterm_while_loading_ends_at_once(tmp_path: Path) -> None:
    """The ports are open, the server is live and not ready, and nobody waits for the load."""
    write_model(tmp_path, "never", "import time\ntime.sleep(600)\n" + ECHO)
    with server_process(tmp_path) as server:
        client = triton.InferenceServerClient(server.address())
        live, ready = client.is_server_live(), client.is_server_ready()
        client.close()

        server.signal(signal.SIGTERM)

        assert server.exit_code(25) == 0
    assert (live, ready) == (True, False)


def test_the_second_sigterm_does_not_wait(tmp_path: Path) -> None:
    """What is in flight is cut off, retryably, and the exit code says so."""
    begun = write_model(tmp_path, "slow", SLOW) / "1" / "begun"
    with server_process(tmp_path) as server:
        caller = Caller(server.address(), 600.0)
        server.wait_for("ready")
        caller.start()
        wait_until(begun.exists, "the call is inside")

        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        server.signal(signal.SIGTERM)

        assert server.exit_code(25) == 1
        caller.join(10)
    assert caller.error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")


def test_sighup_and_sigpipe_harm_nobody(tmp_path: Path) -> None:
    """SIGHUP makes a polling server look at once; SIGPIPE is nothing."""
    write_model(tmp_path, "echo", ECHO)
    flags = ("--model-control-mode=poll", "--repository-poll-secs=600")
    with server_process(tmp_path, *flags) as server:
        client = triton.InferenceServerClient(server.address())
        server.wait_for("ready")
        write_model(tmp_path, "new", ECHO)

        deadline = time.monotonic() + 20
        while not client.is_model_ready("new") and time.monotonic() < deadline:
            server.signal(signal.SIGHUP)
            server.signal(signal.SIGPIPE)
            time.sleep(0.1)

        assert client.is_model_ready("new")
        client.close()
        server.signal(signal.SIGINT)
        assert server.exit_code() == 0


@pytest.mark.parametrize("exit_on_error", ["true", "false"])
def test_a_model_that_does_not_load_ends_the_start_unless_told_otherwise(
    tmp_path: Path, exit_on_error: str
) -> None:
    """The table says which, and why; --exit-on-error=false goes on with the others."""
    write_model(tmp_path, "bad", "raise ValueError('no weights')\n")
    write_model(tmp_path, "good", ECHO)
    with server_process(tmp_path, f"--exit-on-error={exit_on_error}") as server:
        address = server.address()
        server.wait_for("not ready" if exit_on_error == "false" else "did not load")
        if exit_on_error == "false":
            client = triton.InferenceServerClient(address)
            assert client.is_model_ready("good")
            assert not client.is_server_ready()
            client.close()
            server.signal(signal.SIGTERM)

        assert server.exit_code() == (0 if exit_on_error == "false" else 1)
    assert any("bad" in line and "UNAVAILABLE" in line for line in server.said)


def test_a_port_that_is_taken_is_told_in_plain_words(tmp_path: Path) -> None:
    """The second server says which port, and ends with 1."""
    write_model(tmp_path, "echo", ECHO)
    with server_process(tmp_path) as first:
        port = first.address().rpartition(":")[2]
        with server_process(tmp_path, f"--grpc-port={port}") as second:
            line = second.wait_for("in use")
            code = second.exit_code()

    assert (code, f"port {port}" in line) == (1, True)


def test_a_repository_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    """With a message and 1."""
    with server_process(tmp_path / "nowhere") as server:
        code = server.exit_code()

    assert code == 1
    assert any("nowhere" in line for line in server.said)
