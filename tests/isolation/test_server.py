"""A whole server with models in processes of their own: what one does to its process is answered,
told and mended, and nobody else notices.
"""

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.running import Running, ServerThread, options
from tests.isolation.delicate import (
    DELICATE,
    DOOMED,
    HANGS,
    PAIR,
    STEADY,
    STREAMS,
    WARM,
    Load,
    ask,
    ask_one,
    groups,
    pid_of,
    pids_of,
)
from tests.isolation.folders import is_there, parameter, wait_for, write_model

from penstock import Client, InferenceError
from penstock.client.retry import NO_RETRIES
from penstock_runtime.errors import Status


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models."""
    root = tmp_path_factory.mktemp("isolated")
    write_model(root, "delicate", DELICATE)
    write_model(root, "steady", STEADY)
    write_model(root, "streams", STREAMS, more="model_transaction_policy { decoupled: true }")
    write_model(root, "doomed", DOOMED, more=parameter("ISOLATION_FAILED_STARTS", 2))
    write_model(root, "pair", PAIR, count=2, more=WARM)
    write_model(root, "hangs", HANGS, more=parameter("ISOLATION_EXECUTION_SECONDS", 0.2))
    return root


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[Running]:
    """A server with them all."""
    settings = options([repository], model_control_mode="explicit", load_model=("*",))
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    """A client that tries once."""
    with Client(running.target, retries=NO_RETRIES) as made:
        yield made


def test_a_process_that_is_killed_in_a_batch_is_answered_for_told_and_back(
    running: Running, client: Client, repository: Path
) -> None:
    """Its requests get UNAVAILABLE with a reason, readiness says so, it comes back, and another
    model under load has not one failure.
    """
    folder = repository / "delicate" / "1"
    killed = pid_of(running, "delicate")
    before = running.server.core.statistics("delicate", "1")[0].fail.count
    outcomes: list[Any] = []
    with Load(running.target, "steady") as load, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(ask, client, "delicate", value) for value in (1.0, -1.0, 2.0)]
        began = wait_for((folder / "begun").exists)
        (folder / "hold").touch()

        os.kill(killed, signal.SIGKILL)
        outcomes = [call.exception() or call.result() for call in calls]
        told = (
            client.server_ready(),
            client.model_ready("delicate"),
            client.health("model:delicate"),
        )
        (folder / "hold").unlink()
        released = time.monotonic()
        back = wait_for(lambda: client.model_ready("delicate"))
        took = time.monotonic() - released
        again = ask(client, "delicate", 5.0)
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 5)

    errors = [outcome for outcome in outcomes if isinstance(outcome, InferenceError)]
    assert began
    assert back
    assert errors
    assert {(e.status, e.reason, e.retryable) for e in errors} == {
        (Status.UNAVAILABLE, "INSTANCE_DIED", False)
    }
    assert "'delicate'" in errors[0].message
    assert "SIGKILL" in errors[0].message
    assert str(repository) not in errors[0].message
    assert told == (False, False, "NOT_SERVING")
    assert took < 2.0 * 5
    assert again == 6.0
    assert client.server_ready()
    assert (load.failures, set(load.answers) <= {2.0 * n for n in range(100)}) == ([], True)
    after = running.server.core.statistics("delicate", "1")[0].fail.count
    assert after - before == len(errors)
    assert wait_for(lambda: not is_there(killed))


def test_a_request_that_ends_its_process_is_not_tried_again(
    running: Running, client: Client
) -> None:
    """The exit code is told, and one request costs one process."""
    process = running.server.core.model("delicate").instances[0].process
    assert process is not None
    before = process.restarts

    with pytest.raises(InferenceError, match="exit code 3") as caught:
        ask(client, "delicate", 13.0)
    answer = ask(client, "delicate", 1.0)

    assert caught.value.status is Status.UNAVAILABLE
    assert answer == 2.0
    assert process.restarts == before + 1


def test_who_waits_in_the_queue_gets_the_next_process(
    running: Running, client: Client, repository: Path
) -> None:
    """A process that is killed while it is idle costs no request."""
    (repository / "delicate" / "1" / "hold").touch()
    os.kill(pid_of(running, "delicate"), signal.SIGKILL)
    gone = wait_for(lambda: not client.model_ready("delicate"))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, client, "delicate", 4.0)
        waits = wait_for(lambda: running.server.core.model("delicate").unanswered == 1)

        (repository / "delicate" / "1" / "hold").unlink()

        assert call.result(30) == 5.0
    assert gone
    assert waits


def test_a_deadline_holds_while_there_is_no_process(
    running: Running, client: Client, repository: Path
) -> None:
    """Who waits for a process waits no longer than it may."""
    (repository / "delicate" / "1" / "hold").touch()
    os.kill(pid_of(running, "delicate"), signal.SIGKILL)
    wait_for(lambda: not client.model_ready("delicate"))

    with pytest.raises(InferenceError) as caught:
        client.infer("delicate", {"x": np.ones((1, 1), np.float32)}, timeout=0.2)
    (repository / "delicate" / "1" / "hold").unlink()

    assert caught.value.status is Status.DEADLINE_EXCEEDED
    assert wait_for(lambda: client.model_ready("delicate"))


def test_an_execution_that_takes_too_long_ends_its_process(client: Client) -> None:
    """With ISOLATION_EXECUTION_SECONDS a process that does not return is ended."""
    with pytest.raises(InferenceError, match=r"took longer than 0\.2 s") as caught:
        ask_one(client, "hangs", -1.0)

    assert caught.value.reason == "INSTANCE_DIED"
    assert ask_one(client, "hangs", 3.0) == 3.0


def test_streams_come_whole_and_are_closed_where_the_model_is(
    client: Client, repository: Path
) -> None:
    """More responses than may be on their way arrive in order; who gives up early ends them."""
    folder = repository / "streams" / "1"
    found = [
        int(response["OUTPUT0"][0])
        for response in client.stream("streams", {"n": np.array([500], np.int32)})
    ]
    (folder / "closed").unlink()

    responses = client.stream("streams", {"n": np.array([2_000_000], np.int32)})
    first = int(next(iter(responses))["OUTPUT0"][0])
    responses.close()
    closed = wait_for((folder / "closed").exists)

    assert found == list(range(500))
    assert first == 0
    assert closed


def test_a_stream_whose_process_is_killed_ends_with_an_error(
    running: Running, client: Client, repository: Path
) -> None:
    """What came stands, and the end says why there is no more."""
    (repository / "streams" / "1" / "seventh").unlink(missing_ok=True)
    responses = client.stream("streams", {"n": np.array([2_000_000], np.int32)})
    found = [int(next(iter(responses))["OUTPUT0"][0])]
    wait_for((repository / "streams" / "1" / "seventh").exists)

    os.kill(pid_of(running, "streams"), signal.SIGKILL)
    with pytest.raises(InferenceError) as caught:
        found.extend(int(response["OUTPUT0"][0]) for response in responses)

    assert found[0] == 0
    assert (caught.value.status, caught.value.reason) == (Status.UNAVAILABLE, "INSTANCE_DIED")
    assert wait_for(lambda: client.model_ready("streams"))


def test_a_model_without_hope_answers_instead_of_waiting(
    running: Running, client: Client, repository: Path
) -> None:
    """After so many failed starts what waits and what comes is UNAVAILABLE, until a reload."""
    spoiled = repository / "doomed" / "1" / "spoiled"
    spoiled.touch()
    os.kill(pid_of(running, "doomed"), signal.SIGKILL)
    wait_for(lambda: not client.model_ready("doomed"))

    with pytest.raises(InferenceError) as caught:
        ask_one(client, "doomed", 1.0)
    ready = client.server_ready(), client.model_ready("doomed")
    spoiled.unlink()
    client.load("doomed")

    assert (caught.value.status, caught.value.reason) == (Status.UNAVAILABLE, "INSTANCE_DIED")
    assert ready == (False, False)
    assert ask_one(client, "doomed", 1.0) == 1.0
    assert client.server_ready()


def test_metrics_tell_of_processes(running: Running) -> None:
    """Whether each instance is there, its process, and how often it came back."""
    address = f"http://127.0.0.1:{running.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=30) as page:
        text = page.read().decode()

    labels = '{instance="steady_0_0",model="steady",version="1"}'
    assert f"penstock_instance_up{labels} 1\n" in text
    assert f"penstock_instance_pid{labels} {pid_of(running, 'steady')}\n" in text
    assert f"penstock_instance_restarts_total{labels} 0\n" in text


def test_the_configuration_comes_back_as_it_was_written(client: Client) -> None:
    """Triton's message has a kind that Triton does not, with a number far from its own."""
    config = client.model_config("steady")

    assert config.instance_group[0].kind == 1001
    assert [tensor.name for tensor in config.input] == ["x"]


def test_instances_come_and_go_and_leave_no_process_behind(
    running: Running, client: Client
) -> None:
    """More instances are more processes; none of them outlives a load that wants them elsewhere,
    or an unload.
    """
    first = pids_of(running, "steady")

    client.load("steady", config=groups("KIND_PROCESS", 2))
    two = pids_of(running, "steady")
    client.load("steady", config=groups("KIND_CPU"))
    here = pids_of(running, "steady"), ask(client, "steady", 2.0)
    ended = wait_for(lambda: not any(map(is_there, {*first, *two})))
    client.load("steady", config=groups("KIND_PROCESS"))
    again = pids_of(running, "steady")
    answer = ask(client, "steady", 3.0)
    client.unload("steady")

    assert (len(first), len(set(two)), len(again)) == (1, 2, 1)
    assert here == ([], 4.0)
    assert ended
    assert answer == 6.0
    assert wait_for(lambda: not is_there(again[0]))


def test_another_instance_answers_while_one_comes_back_warm(
    running: Running, client: Client, repository: Path
) -> None:
    """Who is left answers all; the new process has executed the warm-up before it is ready."""
    instances = running.server.core.model("pair").instances
    processes = [instance.process for instance in instances]
    first, second = processes
    assert first is not None
    assert second is not None
    hold = repository / "pair" / "1" / "hold"
    hold.touch()
    killed, left = first.pid, second.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    gone = wait_for(lambda: not client.model_ready("pair"))

    answers = [
        int(client.infer("pair", {"x": np.array([[1]], np.int64)}, timeout=30)["OUTPUT0"][0, 0])
        for _ in range(20)
    ]
    ready_meanwhile = client.model_ready("pair")
    hold.unlink()
    back = wait_for(lambda: client.model_ready("pair"))

    assert gone
    assert set(answers) == {left}
    assert not ready_meanwhile
    assert back
    assert (repository / "pair" / "1" / f"warm-{first.pid}").exists()


def test_a_server_that_ends_answers_who_waits_and_starts_nothing_for_nobody(
    tmp_path: Path,
) -> None:
    """A process comes back for a request even while the server drains; one that nobody waits for
    holds nothing up.
    """
    hold = write_model(tmp_path, "delicate", DELICATE) / "hold"
    never = write_model(tmp_path, "other", DELICATE) / "hold"
    outcome: list[float] = []

    def call(target: str) -> None:
        with Client(target, retries=NO_RETRIES) as client:
            outcome.append(ask(client, "delicate", 1.0))

    with ServerThread(options([tmp_path], exit_timeout_secs=20)) as running:
        core = running.server.core
        for name, file in (("delicate", hold), ("other", never)):
            file.touch()
            os.kill(pid_of(running, name), signal.SIGKILL)
            wait_for(lambda name=name: not core.model_ready(name))  # type: ignore[misc]
        calling = threading.Thread(target=call, args=(running.target,))
        calling.start()
        wait_for(lambda: core.model("delicate").unanswered == 1)

        def release() -> None:
            wait_for(lambda: core.exiting)
            hold.unlink()

        releasing = threading.Thread(target=release)
        releasing.start()
    calling.join(30)
    releasing.join(30)

    assert outcome == [2.0]
