"""Fixtures of the client's tests: a server on the loopback, and a client of each kind."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.server.client_driver import Driver
from tests.server.fake_server import FakeServer, running

from penstock.client.channel import TRANSPORT_VARIABLE


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with running() as started:
        yield started


@pytest.fixture(params=["blocking", "asyncio"])
def client_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["grpcio", "http2"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What carries the calls of every client that the test makes."""
    name = str(request.param)
    monkeypatch.setenv(TRANSPORT_VARIABLE, name)
    return name


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def driver(client_kind: str, runner: asyncio.Runner, fake: FakeServer) -> Iterator[Driver]:
    made = Driver(client_kind, runner, target=fake.address, timeout=20.0)
    yield made
    made.close()
