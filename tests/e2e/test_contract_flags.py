"""Flags of the server, its repository, its metrics and its log, as `penstock serve` takes them, by
what a client or an operator sees of them.
"""

import json
import logging
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import flagged, page, samples, tensors, write
from tests.e2e.running import Running, ServerThread
from tests.http2.raw import eventually
from tests.server_process import server_process, write_model

from penstock.config import FOREIGN_FLAGS

ECHO = """
from penstock import FP32, model


@model
def echo(X: FP32[-1]) -> FP32[-1].named("Y"):
    return X
"""
ONE = np.ones(1, np.float32)


@contextmanager
def asked(root: Path, *flags: str) -> Iterator[tuple[Any, Running]]:
    """A client of a server with these flags."""
    with (
        ServerThread(flagged(root, *flags)) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        yield client, running


def test_a_model_may_be_the_whole_repository(tmp_path: Path) -> None:
    """--model-name calls it."""
    write(tmp_path, "any", ECHO)
    with asked(tmp_path / "any", "--model-name=mine") as (client, _):
        assert client.is_model_ready("mine")


def test_a_configuration_may_be_chosen_by_name(tmp_path: Path) -> None:
    """--model-config-name, for the models that have one of this name."""
    folder = write(tmp_path, "echo", ECHO, 'parameters { key: "from" value { string_value: "a" } }')
    (folder / "configs").mkdir()
    other = 'parameters { key: "from" value { string_value: "b" } }'
    (folder / "configs" / "other.pbtxt").write_text(other)
    write(tmp_path, "plain", ECHO)
    with asked(tmp_path, "--model-config-name=other") as (client, _):
        config = client.get_model_config("echo").config

        assert config.parameters["from"].string_value == "b"
        assert client.is_model_ready("plain")


@pytest.mark.parametrize("namespacing", ["false", "true"])
def test_a_name_in_two_repositories(tmp_path: Path, namespacing: str) -> None:
    """--model-repository twice: served by nobody, or with --model-namespacing as two models."""
    for name in ("one", "two"):
        write(tmp_path / name, "echo", ECHO)
    flags = (f"--model-repository={tmp_path / 'two'}", f"--model-namespacing={namespacing}")
    with asked(tmp_path / "one", *flags) as (client, _):
        found = {m.name: m.state for m in client.get_model_repository_index().models}

        if namespacing == "true":
            assert found == {"one::echo": "READY", "two::echo": "READY"}
        else:
            assert found == {"echo": "UNAVAILABLE"}


@pytest.mark.parametrize("threads", [1, 2])
def test_so_many_models_are_loaded_at_a_time(tmp_path: Path, threads: int) -> None:
    """--model-load-thread-count: two that wait for each other need two."""
    root = tmp_path / "models"
    for name, other in (("a", "b"), ("b", "a")):
        waiting = (
            "import pathlib, time\n"
            f"pathlib.Path({str(tmp_path / name)!r}).touch()\n"
            f"other = pathlib.Path({str(tmp_path / other)!r})\n"
            f"end = time.monotonic() + {10 if threads > 1 else 0.1}\n"
            "while not other.exists():\n"
            "    if time.monotonic() > end:\n"
            "        raise RuntimeError('alone')\n"
            "    time.sleep(0.01)\n"
        )
        write(root, name, waiting + ECHO)
    with asked(root, f"--model-load-thread-count={threads}") as (client, _):
        ready = sorted(client.is_model_ready(name) for name in ("a", "b"))

    assert ready == [threads == 2, True]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_load_that_fails_is_tried_so_often_again(tmp_path: Path, retries: int) -> None:
    """--model-load-retry-count."""
    once = tmp_path / "once"
    failing = f"import pathlib\nonce = pathlib.Path({str(once)!r})\n"
    failing += "if not once.exists():\n    once.touch()\n    raise RuntimeError('not yet')\n"
    write(tmp_path / "models", "shy", failing + ECHO)
    with asked(tmp_path / "models", f"--model-load-retry-count={retries}") as (client, _):
        assert client.is_model_ready("shy") is bool(retries)


@pytest.mark.parametrize("disabled", ["false", "true"])
def test_what_a_configuration_leaves_out_may_be_completed(tmp_path: Path, disabled: str) -> None:
    """--disable-auto-complete-config takes it as it is, which here says nothing of inputs."""
    write(tmp_path, "echo", ECHO, 'backend: "python"')
    with asked(tmp_path, f"--disable-auto-complete-config={disabled}") as (client, _):
        inputs = [tensor.name for tensor in client.get_model_metadata("echo").inputs]

    assert inputs == ([] if disabled == "true" else ["X"])


@pytest.mark.parametrize("strict", ["true", "false"])
def test_readiness_may_leave_the_models_out(tmp_path: Path, strict: str) -> None:
    """--strict-readiness=false: the server is up, that is all."""
    write(tmp_path, "broken", "raise RuntimeError\n")
    with asked(tmp_path, f"--strict-readiness={strict}") as (client, _):
        assert client.is_server_ready() is (strict == "false")
        assert client.is_server_live()


def test_a_pickle_needs_the_operators_word(tmp_path: Path) -> None:
    """--allow-pickle names the model; without it the reason says so."""
    torch = pytest.importorskip("torch")
    code = "import torch\n\n\nclass Model(torch.nn.Linear):\n"
    code += "    def __init__(self):\n        super().__init__(2, 1)\n"
    config = (
        'backend: "torch"\ninput { name: "X" data_type: TYPE_FP32 dims: [ 1, 2 ] }\n'
        'output { name: "Y" data_type: TYPE_FP32 dims: [ 1, 1 ] }\n'
    )
    for name in ("trusted", "other"):
        folder = write(tmp_path, name, code, config)
        torch.save(torch.nn.Linear(2, 1).state_dict(), folder / "1" / "model.pt")
    with asked(tmp_path, "--allow-pickle=trusted") as (client, _):
        found = {m.name: (m.state, m.reason) for m in client.get_model_repository_index().models}

        assert found["trusted"] == ("READY", "")
        assert found["other"][0] == "UNAVAILABLE"
        assert "model.pt is a pickle" in found["other"][1]


def test_a_server_has_its_name_from_wherever_it_is_said(tmp_path: Path) -> None:
    """--server-name, which Triton also calls --id; or the file of --config-file."""
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"server_name": "filed"}))
    (tmp_path / "models").mkdir()
    for flag, name in (
        ("--server-name=named", "named"),
        ("--id=other", "other"),
        (f"--config-file={file}", "filed"),
    ):
        with asked(tmp_path / "models", flag) as (client, _):
            assert client.get_server_metadata().name == name


@pytest.mark.parametrize(
    "flag", ["--response-cache-byte-size=1000000", "--cache-config=local,size=1000000,ttl=60"]
)
def test_answers_are_kept_where_a_cache_has_a_size(tmp_path: Path, flag: str) -> None:
    """By its new name and by its old one."""
    write(tmp_path, "echo", ECHO, "response_cache { enable: true }")
    with asked(tmp_path, flag) as (client, running):
        for _ in range(3):
            client.infer("echo", tensors(X=ONE))

        assert samples(running)['nv_cache_num_hits_per_model{model="echo",version="1"}'] == 2


def test_metrics_have_a_port_and_an_address_or_are_off(tmp_path: Path) -> None:
    """--metrics-port, --metrics-address, --allow-metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (f"--metrics-port={port}", "--metrics-address=127.0.0.1")
    with asked(tmp_path, *flags) as (_, running):
        address = f"http://127.0.0.1:{port}/metrics"
        assert urllib.request.urlopen(address, timeout=10).status == 200
        assert running.metrics_port == port
    with asked(tmp_path, "--allow-metrics=false") as (client, running):
        assert running.server.metrics_port is None
        assert client.is_server_live()


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_calls_are_counted_by_method_where_that_is_wanted(tmp_path: Path, wanted: str) -> None:
    """--rpc-metrics."""
    with asked(tmp_path, f"--rpc-metrics={wanted}") as (client, running):
        client.is_server_live()

        assert ("grpc_server_handled_total" in page(running)) is (wanted == "true")


def test_a_loop_that_stands_still_is_dumped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """--stall-dump-secs: the stacks of all threads go to the log."""
    with (
        caplog.at_level(logging.WARNING, "penstock"),
        asked(tmp_path, "--stall-dump-secs=0.05") as (_, running),
    ):
        told = threading.Event()

        def stand_still() -> None:
            end = time.monotonic() + 10
            while not told.is_set() and time.monotonic() < end:
                if "stand_still" in caplog.text:
                    told.set()

        running.loop.call_soon_threadsafe(stand_still)
        assert told.wait(20)


def test_flags_of_triton_without_effect_start_a_server(tmp_path: Path) -> None:
    """All of them at once; the log can tell which they were."""
    names = {name for name, flag in FOREIGN_FLAGS.items() if not flag.refused}
    flags = [f"--{name}=1" for name in names] + ["--allow-grpc=true"]
    settings = flagged(tmp_path, *flags)
    with ServerThread(settings) as running, triton.InferenceServerClient(running.target) as client:
        assert client.is_server_live()

    assert set(settings.ignored) == names | {"allow-grpc"}


@pytest.mark.parametrize("name", [name for name, flag in FOREIGN_FLAGS.items() if flag.refused])
def test_a_flag_of_triton_that_would_not_hold_ends_the_start(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would mean something else here is not taken for nothing; the text says what to say."""
    value = "false" if FOREIGN_FLAGS[name].when_off else "1"

    with pytest.raises(SystemExit) as end:
        flagged(tmp_path, f"--{name}={value}")

    assert end.value.code == 2
    assert FOREIGN_FLAGS[name].refused in capsys.readouterr().err


SLOW = """
import pathlib
import time

def predict(IN):
    pathlib.Path(__file__).with_name("entered").touch()
    time.sleep(600)
"""


def test_a_stop_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    """--exit-timeout-secs=0: what is inside is cut off, UNAVAILABLE, and the exit code says so."""
    entered = write_model(tmp_path, "slow", SLOW) / "1" / "entered"
    answers: list[Any] = []
    with (
        server_process(tmp_path, "--exit-timeout-secs=0") as server,
        triton.InferenceServerClient(server.address()) as client,
    ):
        server.wait_for("ready")
        client.async_infer("slow", tensors(IN=ONE), lambda result, error: answers.append(error))
        eventually(entered.exists, "the request is executed")
        server.signal(signal.SIGTERM)

        assert server.exit_code(25) == 1
        eventually(lambda: bool(answers), "the caller is told")
    assert answers[0].status() == "StatusCode.UNAVAILABLE"


def test_a_log_has_a_file_a_form_and_levels(tmp_path: Path) -> None:
    """--log-file, --log-format, --log-verbose, --access-log: one object a line, a call too."""
    write_model(tmp_path / "models", "echo", "def predict(IN):\n    return {'OUT': IN}\n")
    file = tmp_path / "log"
    flags = (f"--log-file={file}", "--log-format=json", "--log-verbose=1", "--access-log=true")
    with server_process(tmp_path / "models", *flags) as server:
        eventually(lambda: file.exists() and "gRPC on" in file.read_text(), "the address is told")
        (address,) = (
            json.loads(row)["message"].split("gRPC on ")[1].split(",")[0].split()[0]
            for row in file.read_text().splitlines()
            if "gRPC on" in row
        )
        with triton.InferenceServerClient(address) as client:
            eventually(lambda: client.is_model_ready("echo"), "the model is loaded")
            client.infer("echo", tensors(IN=ONE), request_id="r-77")
            verbose = client.get_log_settings().settings["log_verbose_level"].uint32_param
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert server.said == []

    rows = [json.loads(row) for row in file.read_text().splitlines()]
    assert any("r-77" in json.dumps(row) for row in rows)
    assert verbose == 1


def test_levels_of_the_log_can_be_left_out(tmp_path: Path) -> None:
    """--log-info, --log-warning, --log-error: a server that fails to load a model is silent."""
    write_model(tmp_path, "broken", "raise RuntimeError('why')\n")
    flags = ("--log-info=false", "--log-warning=false", "--log-error=false")
    with server_process(tmp_path, *flags) as server:
        assert server.exit_code() == 1
        server.process.wait(20)

    assert not [row for row in server.said if "why" in row]
