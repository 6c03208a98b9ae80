"""Every client meets every transport in every case."""

import os
from pathlib import Path

import pytest
from tests.interop.cases import CASES, DULL, Case
from tests.interop.grpcio_clients import GrpcioAioClient, GrpcioClient
from tests.interop.jobs import Client, Place
from tests.interop.places import Servers
from tests.interop.programs import PROGRAMS
from tests.interop.table import Table
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
SECURE = ("unary", "many", "stream", "cancel", "large", "error", "health")
SECURE_CASES = [case for case in CASES if case.name in SECURE]
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
    with table.meeting(client, transport, case.name):
        place = servers.place(transport, "compressing" if case.compressing else "plain")
        with Wiretap(place.target) as tap:
            direct = not (case.compressing or WIRE)
            outcomes = client.run(place if direct else Place(tap.target), case.job, tmp_path)
            if WIRE:
                path = Path(WIRE, f"{client.name}-{transport}-{case.name}.txt")
                path.write_text(tap.dump())

        case.check(outcomes)
        if case.compressing:
            check_compressed(tap)
        if case.then is not None:
            (after,) = GrpcioClient().run(place, case.then, tmp_path)
            assert after.code == 0, after


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


@pytest.mark.parametrize("case", SECURE_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_it_through_tls_as_well(
    client: Client, transport: str, case: Case, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """Every client asks for h2 by ALPN, trusts the authority it is told of, and is answered."""
    with table.meeting(client, f"{transport} with TLS", case.name):
        outcomes = client.run(servers.place(transport, "secure"), case.job, tmp_path)

        case.check(outcomes)
