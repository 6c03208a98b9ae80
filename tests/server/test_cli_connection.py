"""What is wrong with a connection is said in one plain line, whatever carries the calls."""

import contextlib
import socket
import sys
import threading
from typing import Any

import pytest
from tests.server.fake_server import FakeServer

from penstock.cli.main import main

Capture = pytest.CaptureFixture[str]
BINARY = sys.executable
"""A file that is no certificate."""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metadata", "A B=c"], "--metadata: metadata name 'A B'"),
        (["--metadata", "a=\n"], "--metadata: metadata 'a' has a value"),
        (["--tls-ca", "/nope.pem"], "/nope.pem: No such file or directory"),
        (["--tls-cert", "/nope.pem"], "/nope.pem: No such file or directory"),
        (["--tls-key", "/nope.pem"], "--tls-key needs --tls-cert"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_named(
    arguments: list[str], says: str, transport: str, fake: FakeServer, capsys: Capture
) -> None:
    """Code 2, before anything is sent."""
    code = main(["health", "--url", fake.address, *arguments])

    said = capsys.readouterr().err
    assert code == 2
    assert says in said
    assert said.count("\n") == 1
    assert not fake.calls


def test_tls_at_a_plain_port_is_told_from_nobody_there(
    transport: str, fake: FakeServer, capsys: Capture
) -> None:
    """A server answers, and it does not speak TLS."""
    code = main(["health", "--url", fake.address, "--tls"])

    said = capsys.readouterr().err
    assert code == 1
    assert "no server answers" not in said
    assert "tls" in said.lower()
    assert said.count("\n") == 1


def test_a_server_that_hangs_up_in_the_handshake_is_told_too(
    transport: str, capsys: Capture
) -> None:
    """Nothing is said of a time that did not pass."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        hang_up = threading.Thread(target=_hang_up, args=(listener,), daemon=True)
        hang_up.start()
        code = main(["health", "--url", address, "--tls"])

    said = capsys.readouterr().err.lower()
    assert code == 1
    assert "tls" in said or "handshake" in said
    assert "within" not in said


def _hang_up(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.close()


def test_what_can_be_no_name_is_told_from_nobody_there(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """By our own transport; gRPC's library does not tell it from a name that nobody knows."""
    monkeypatch.setenv("PENSTOCK_CLIENT_TRANSPORT", "http2")

    code = main(["health", "--url", "a..b:8001"])

    said = capsys.readouterr().err
    assert code == 1
    assert "a..b:8001 can be no name of a server" in said
    assert said.count("\n") == 1


def test_files_that_hold_no_certificates_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """By our own transport; gRPC's library does not look at them in time."""
    monkeypatch.setenv("PENSTOCK_CLIENT_TRANSPORT", "http2")

    codes = [main(["health", option, BINARY]) for option in ("--tls-ca", "--tls-cert")]

    said = capsys.readouterr().err.splitlines()
    assert codes == [2, 2]
    assert [f"{BINARY} cannot be used" in line for line in said] == [True, True]


def test_a_name_among_several_that_nobody_knows_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """gRPC's library has several addresses only as numbers."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    load = ["bench", "m", "--client", "grpcio", "--body", "/dev/null"]

    codes = [main([*each, "--url", "nowhere:1,127.0.0.1:2"]) for each in (["health"], load)]

    said = capsys.readouterr().err.splitlines()
    assert codes == [2, 2]
    assert all("nowhere:1" in line and "not known" in line for line in said)
    assert len(said) == 2
