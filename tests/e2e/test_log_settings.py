"""tritonclient reads and changes what a running server logs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.server_process import server_process, write_model
from tests.transports import TRANSPORTS, chosen
from tritonclient.utils import InferenceServerException

from penstock.logs import configure_logs

FILE = "server.log"
START: dict[str, dict[str, Any]] = {
    "log_info": {"bool_param": True},
    "log_warning": {"bool_param": True},
    "log_error": {"bool_param": True},
    "log_verbose_level": {"uint32_param": 0},
    "log_format": {"string_param": "default"},
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server on each transport that keeps the log of this process, in a file."""
    file = tmp_path_factory.mktemp("logs") / FILE
    settings = options([MODELS], transport=request.param, log_file=str(file))
    logs = configure_logs(settings)
    try:
        with ServerThread(settings, logs) as made:
            yield made
    finally:
        logs.close()


def settings_of(client: Any) -> dict[str, dict[str, Any]]:
    """Those in force, without the file, which is the same always."""
    settings: dict[str, dict[str, Any]] = client.get_log_settings(as_json=True)["settings"]
    assert settings.pop("log_file")["string_param"].endswith(f"/{FILE}")
    return settings


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


def test_what_was_changed_is_what_is_read(client: Any) -> None:
    """Each by itself, several at once, and back again."""
    assert settings_of(client) == START
    changes: list[dict[str, Any]] = [
        {"log_info": False},
        {"log_warning": False, "log_error": False},
        {"log_verbose_level": 2, "log_format": "ISO8601"},
        {"log_format": "json"},
    ]
    for change in changes:
        answer = client.update_log_settings(change, as_json=True)["settings"]

        for name, value in change.items():
            assert list(answer[name].values()) == [value]
        assert client.get_log_settings(as_json=True)["settings"] == answer
    client.update_log_settings({name: next(iter(value.values())) for name, value in START.items()})
    assert settings_of(client) == START


@pytest.mark.parametrize(
    ("settings", "status", "text"),
    [
        (
            {"log_file": "/tmp/elsewhere"},
            "UNIMPLEMENTED",
            "log file location can not be updated through network protocol",
        ),
        ({"log_file": None}, "UNIMPLEMENTED", "log file location can not be updated through"),
        ({"log_format": "xml"}, "INVALID_ARGUMENT", "expected one of default, ISO8601, json"),
        ({"log_info": None}, "INVALID_ARGUMENT", "log setting 'log_info': expected a value of"),
        ({"log_colour": True}, "INVALID_ARGUMENT", "log setting 'log_colour': unknown"),
    ],
)
def test_what_is_wrong_is_refused_whole(
    client: Any, settings: dict[str, Any], status: str, text: str
) -> None:
    """The good one before it is not taken either."""
    with pytest.raises(InferenceServerException, match=text) as error:
        client.update_log_settings({"log_warning": False, **settings})

    assert error.value.status() == f"StatusCode.{status}"
    assert settings_of(client) == START


def test_the_extension_is_listed(client: Any) -> None:
    """A client finds out before it asks."""
    assert "logging" in client.get_server_metadata().extensions


def test_a_process_writes_at_once_what_it_was_told_to(tmp_path: Path) -> None:
    """Every change is told in the form, and by the switches, that were in force before it."""
    write_model(tmp_path, "echo", "def predict(IN):\n    return {'OUT': IN}\n")
    changes: tuple[dict[str, Any], ...] = (
        {"log_format": "json"},
        {"log_info": False},
        {"log_warning": False},
        {"log_info": True, "log_format": "default"},
        {"log_warning": True},
    )
    with server_process(tmp_path, f"--transport={chosen()}") as server:
        with triton.InferenceServerClient(server.address()) as client:
            server.wait_for(": ready")
            for change in changes:
                client.update_log_settings(change)
        told = [server.wait_for("log settings are changed by 127.0.0.1: ") for _ in range(3)]
        server.process.terminate()
        assert server.exit_code() == 0

    assert " INFO penstock.servicer_logs: log settings" in told[0]
    assert told[0].endswith("log_format=json\n")
    assert json.loads(told[1])["message"].endswith("log_info=False")
    assert told[2].endswith("log_warning=True\n")
    assert sum("settings are changed" in line for line in server.said) == len(told)
