"""Several processes on one port: calls reach all of them, one that dies comes back while the others
serve, none outlives the supervisor, and the way down loses nothing.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.served_processes import (
    MODEL,
    POLL,
    TIMEOUT_S,
    TWO,
    Caller,
    Connection,
    Served,
    is_free,
    is_gone,
    wait_until,
)
from tests.server_process import server_process, write_model
from tests.transports import TRANSPORTS

from penstock.cli.main import main


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Served]:
    """Two processes on each transport, for the tests that leave them running."""
    root = tmp_path_factory.mktemp("served") / "models"
    write_model(root, "pid", MODEL)
    with server_process(root, TWO, *POLL, f"--transport={request.param}") as server:
        yield Served(server, root)


# -- while it serves -----------------------------------------------------------------------------


def test_calls_reach_every_process(served: Served) -> None:
    """The kernel shares connections out among the processes, and each executes for itself."""
    pids = served.pids()

    for pid in pids:
        served.find(pid).__exit__()

    assert len(pids) == 2


def test_one_scrape_tells_of_all_processes(served: Served) -> None:
    """Every family once, every sample with its process, and how the processes are."""
    for pid in served.pids():
        served.find(pid).__exit__()

    status, text = served.get("/metrics")
    families = list(text_string_to_metric_families(text))

    names = re.findall(r"# TYPE (\S+) ", text)
    own = ("penstock_processes", "penstock_process_restarts")
    samples = [s for family in families if family.name not in own for s in family.samples]
    assert status == 200
    assert [name for name in set(names) if names.count(name) > 1] == []
    assert len(names) == len(re.findall(r"# HELP (\S+) ", text))
    assert {s.labels.get("process") for s in samples} == {"0", "1"}
    executed = [s for s in samples if s.name == "nv_inference_count_total"]
    assert len(executed) == 2
    assert all(s.value > 0 for s in executed)
    assert served.value("penstock_processes", 'state="ready"') == 2
    assert served.get("/v2/health/ready")[0] == served.get("/v2/health/live")[0] == 200


def test_the_log_says_who_speaks_and_says_once_what_is_the_same(served: Served) -> None:
    """Lines of a process bear its number; the table of models and the address come once."""
    lines = served.server.said

    tables = [line for line in lines if "model  version" in line]
    assert len(tables) == 1
    assert "Z [0] INFO" in tables[0]
    assert sum("gRPC on" in line for line in lines) == 1


def test_settings_are_changed_in_every_process(served: Served) -> None:
    """When the call is answered, whichever process it came to."""
    connections = [served.find(pid) for pid in served.pids()]
    clients = [connection._client for connection in connections]
    try:
        for value, (client, other) in enumerate((clients, clients[::-1]), 1):
            client.update_log_settings({"log_verbose_level": value})
            client.update_trace_settings("pid", {"trace_rate": str(value)})
            found = other.get_log_settings(as_json=True)["settings"]
            traced = other.get_trace_settings("pid", as_json=True)["settings"]

            assert int(found["log_verbose_level"]["uint32_param"]) == value
            assert traced["trace_rate"]["value"] == [str(value)]
            assert other.get_trace_settings(as_json=True)["settings"]["trace_rate"] != [str(value)]
    finally:
        clients[0].update_log_settings({"log_verbose_level": 0})
        for connection in connections:
            connection.__exit__()


def test_queues_of_all_processes_are_on_one_page(served: Served) -> None:
    """Each row says whose it is."""
    status, text = served.get("/queues")

    rows = json.loads(text)["queues"]
    assert status == 200
    assert {(row["process"], row["model"]) for row in rows} >= {("0", "pid"), ("1", "pid")}


def test_the_supervisor_stays_small(served: Served) -> None:
    """It has loaded neither gRPC nor numpy, torch or uvloop."""
    maps = Path(f"/proc/{served.server.process.pid}/maps").read_text()

    assert [name for name in ("/grpc/", "/numpy/", "/torch/", "/uvloop/") if name in maps] == []


def test_sighup_reaches_every_process(served: Served) -> None:
    """All of them look at the repository."""
    assert served.root is not None
    connections = [served.find(pid) for pid in served.pids()]
    write_model(served.root, "new", "def predict(IN):\n    return {'OUT': IN}\n")

    def have_it() -> bool:
        served.server.signal(signal.SIGHUP)
        return all(connection.has("new") for connection in connections)

    wait_until(have_it, "the new model in both processes")
    for connection in connections:
        connection.__exit__()


def test_a_port_that_another_server_shares_out_is_taken(served: Served, tmp_path: Path) -> None:
    """SO_REUSEPORT is for the processes of one server, unless it is asked for."""
    port = served.address.rpartition(":")[2]

    with server_process(tmp_path, TWO, f"--grpc-port={port}") as second:
        line = second.wait_for("in use")
        code = second.exit_code()

    assert (code, f"port {port}" in line) == (1, True)


def test_a_killed_process_comes_back_while_the_others_serve(served: Served) -> None:
    """Nobody else notices: not who is connected elsewhere, nor who comes while it loads again. What
    was changed in the meantime holds for the new one too.
    """
    lost, kept = served.pids()
    with served.find(kept) as connected:
        connected._client.update_trace_settings("pid", {"trace_rate": "77"})
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda: served.get("/v2/health/ready")[0] == 503, "not ready")
        answered = {connected.call()}
        while served.get("/v2/health/ready")[0] != 200:
            with Connection(served.address) as fresh:
                answered |= {connected.call(), fresh.call()}

    assert served.get("/v2/health/live")[0] == 200
    (new,) = served.pids() - {kept}
    with served.find(new) as found:
        settings = found._client.get_trace_settings("pid", as_json=True)["settings"]
    assert new != lost
    assert settings["trace_rate"]["value"] == ["77"]
    assert answered <= {kept, new}
    assert served.value("penstock_process_restarts_total") == 1
    assert is_gone(lost)


# -- the way down --------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sigterm_loses_nothing_that_any_process_accepted(tmp_path: Path, transport: str) -> None:
    """What was executed was answered, who came too late may go elsewhere, and nothing is left."""
    write_model(tmp_path / "models", "pid", MODEL)
    executed = tmp_path / "executed"
    with server_process(
        tmp_path / "models", TWO, f"--transport={transport}", "--drain-delay=0.1"
    ) as server:
        served = Served(server)
        pids = served.pids()
        for pid in pids:
            served.find(pid).__exit__()
        before = executed.stat().st_size
        callers = [Caller(served.address) for _ in range(16)]
        wait_until(lambda: executed.stat().st_size > before + 40, "calls under way")

        server.signal(signal.SIGTERM)
        for caller in callers:
            caller.join(TIMEOUT_S)

        assert server.exit_code() == 0
    assert executed.stat().st_size - before == sum(caller.answered for caller in callers)
    assert {caller.error.status() for caller in callers} == {"StatusCode.UNAVAILABLE"}
    assert all(map(is_gone, pids))


def test_a_signal_to_all_processes_at_once_is_not_meant_twice(tmp_path: Path) -> None:
    """A service manager that signals the whole service does not cut off what is in flight."""
    write_model(tmp_path / "models", "pid", MODEL)
    with server_process(tmp_path / "models", TWO) as server:
        served = Served(server)
        callers = [Caller(served.address, 0.7, times=1) for _ in range(4)]
        wait_until(lambda: served.value("penstock_inflight_calls") == 4, "calls inside")

        for pid in served.pids():
            os.kill(pid, signal.SIGTERM)
        server.signal(signal.SIGTERM)

        assert server.exit_code() == 0
        for caller in callers:
            caller.join(TIMEOUT_S)
    assert [(caller.answered, caller.error) for caller in callers] == [(1, None)] * 4


def test_the_second_signal_hurries_all_of_them(tmp_path: Path) -> None:
    """What is in flight is cut off, retryably, and the worst exit code is that of the server."""
    write_model(tmp_path / "models", "pid", MODEL)
    with server_process(tmp_path / "models", TWO) as server:
        served = Served(server)
        caller = Caller(served.address, 600.0)
        wait_until(lambda: served.value("penstock_inflight_calls") == 1, "a call inside")

        server.signal(signal.SIGTERM)
        server.wait_for("penstock.drain: stopping")
        server.signal(signal.SIGTERM)

        assert server.exit_code() == 1
        caller.join(TIMEOUT_S)
    assert caller.error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED")


def test_nobody_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves neither a process nor a port in use."""
    write_model(tmp_path / "models", "pid", MODEL)
    with server_process(tmp_path / "models", TWO) as server:
        served = Served(server)
        pids = served.pids()

        server.signal(signal.SIGKILL)

        wait_until(lambda: all(map(is_gone, pids)), "the end of the processes")
        wait_until(lambda: is_free(served.address), "the port")
    assert len(pids) == 2


# -- the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"), [("import os\nos._exit(7)\n", 7), ("raise ValueError('no weights')\n", 1)]
)
def test_a_process_that_dies_during_the_first_start_ends_the_server(
    tmp_path: Path, code: str, expected: int
) -> None:
    """With its exit code, and nothing is tried again."""
    write_model(tmp_path / "models", "pid", code)
    with server_process(tmp_path / "models", TWO) as server:
        assert server.exit_code() == expected
    assert any("first start" in line for line in server.said)


def test_sigint_while_loading_ends_at_once(tmp_path: Path) -> None:
    """Nobody waits for the load."""
    write_model(tmp_path / "models", "pid", "import time\ntime.sleep(600)\n")
    with server_process(tmp_path / "models", TWO) as server:
        server.address()

        server.signal(signal.SIGINT)

        assert server.exit_code() == 0


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--grpc-address=unix:/tmp/penstock.sock", "cannot be shared"),
        ("--model-control-mode=explicit", "one process only"),
        ("--allow-client-shm", "a region would be registered with one process only"),
        ("--processes=0", "at least 1"),
    ],
)
def test_what_does_not_go_with_several_processes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    """Before anything is started, and with the reason."""
    code = main(["serve", str(tmp_path), TWO, flag])

    assert (code, words in capsys.readouterr().err) == (2, True)
