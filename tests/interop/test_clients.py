"""Every client meets every transport in every case."""

import os
from pathlib import Path

import pytest
from tests.interop.cases import CASES, DULL, Case
from tests.interop.grpcio_clients import GrpcioAioClient, GrpcioClient
from tests.interop.jobs import Client, Place
from tests.interop.places import Servers
from tests.interop.programs import PROGRAMS
from tests.interop.table import FAILED, OK, Table
from tests.interop.tools import CurlClient, NghttpClient
from tests.interop.triton_clients import TritonAioClient, TritonClient
from tests.interop.wiretap import Wiretap, messages
from tests.transports import TRANSPORTS

PYTHON_CLIENTS: tuple[Client, ...] = (
    GrpcioClient(),
    GrpcioAioClient(),
    TritonClient(),
    TritonAioClient(),
)
OTHER_CLIENTS: tuple[Client, ...] = (*PROGRAMS, CurlClient(), NghttpClient())
WIRE = os.environ.get("PENSTOCK_INTEROP_WIRE", "")
CLIENTS = [pytest.param(client, id=client.name) for client in PYTHON_CLIENTS]
CLIENTS += [pytest.param(c, id=c.name, marks=pytest.mark.interop) for c in OTHER_CLIENTS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_what_the_protocol_promises(
    client: Client, transport: str, case: Case, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """The outcome of every case is the one that gRPC and the model say."""
    why_not = client.missing() or client.unable.get(case.name, "")
    table.record(client.name, transport, case.name, why_not or FAILED)
    if why_not:
        pytest.skip(why_not)
    table.versions[client.name] = client.version()
    place = servers.place(transport, "compressing" if case.compressing else "plain")

    if case.compressing or WIRE:
        with Wiretap(place.target) as tap:
            outcomes = client.run(Place(tap.target), case.job, tmp_path)
    else:
        outcomes = client.run(place, case.job, tmp_path)

    if WIRE:
        Path(WIRE, f"{client.name}-{transport}-{case.name}.txt").write_text(tap.dump())
    case.check(outcomes)
    if case.compressing:
        check_compressed(tap)
    table.record(client.name, transport, case.name, OK)


def check_compressed(tap: Wiretap) -> None:
    """Messages of both sides crossed the wire compressed, and are smaller for it."""
    connection = tap.connections[-1]
    asked, answered = (messages(bytes(d)) for d in (connection.sent, connection.received))
    # A client may stop once it has read what the server accepts: grpc-js trips over the spaces that
    # grpcio's server puts into that list.
    for compressed, message in [*asked[:1], *answered]:
        assert compressed
        assert len(message) < len(DULL) // 8
    assert asked
    assert answered
