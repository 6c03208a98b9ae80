"""What tools for HTTP/2 send that gRPC clients do not: odd but legal frames, very many calls."""

import json
from pathlib import Path

import grpc
import pytest
from tests.interop.cases import CASES
from tests.interop.grpcio_clients import SERVICE
from tests.interop.jobs import Job, Place
from tests.interop.models import numbers, request
from tests.interop.places import Servers
from tests.interop.programs import REFLECTION
from tests.interop.table import Table
from tests.interop.tools import H2load, NghttpClient
from tests.transports import TRANSPORTS

from penstock.rpc import SERVICES
from penstock_protos.inference import ModelStatisticsRequest, ModelStatisticsResponse

pytestmark = pytest.mark.interop
RESOURCE_EXHAUSTED = "8"
ONE = Job(requests=(request("echo", numbers(1)),))
ODDITIES = {
    "padded frames": ("--padding=200",),
    "no priorities": ("--no-dep",),
    "no content-length": ("--no-content-length",),
    "request trailers": ("--trailer=x-end: 1",),
    "windows of 1 KiB": ("--window-bits=10",),
    "no header table": ("--header-table-size=0", "--encoder-header-table-size=0"),
    "header table of 64 KiB": ("--header-table-size=65536",),
    "one stream at a time": ("--max-concurrent-streams=1",),
    "waits for 100": ("--expect-continue",),
}
BEYOND = {
    ("grpcio", "padded frames"): "grpcio's server takes the padding of HEADERS for header fields"
}


@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_odd_but_legal_frames_change_nothing(
    oddity: str, transport: str, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """A unary call, a stream, an error and a large call end as they do for everybody else."""
    client = NghttpClient(*ODDITIES[oddity])
    with table.meeting(client, transport, oddity, BEYOND.get((transport, oddity), "")):
        place = servers.place(transport)

        for case in CASES:
            if case.name in ("unary", "stream", "error trailers", "large"):
                case.check(client.run(place, case.job, tmp_path))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_hundred_streams_of_one_connection_are_all_answered(
    transport: str, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """All streams are opened at once; the repeated header fields come from the table."""
    client = NghttpClient("--multiply=100")
    with table.meeting(client, transport, "100 streams at once"):
        fields = client.fields(servers.place(transport), ONE, tmp_path)

        assert fields.count(("grpc-status", "0")) == 100


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_header_fields_in_continuation_frames_are_read_or_refused_by_status(
    transport: str, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """25 KB of metadata is more than the 16 KiB that are advertised, yet harms no connection."""
    client = NghttpClient("--continuation")
    with table.meeting(client, transport, "25 KB of metadata, continued"):
        fields = dict(client.fields(servers.place(transport), ONE, tmp_path))

        assert fields[":status"] == "200"
        assert fields["grpc-status"] in ("0", RESOURCE_EXHAUSTED)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ten_connections_with_a_hundred_streams_each_lose_nothing(
    transport: str, servers: Servers, table: Table, tmp_path: Path
) -> None:
    """Every call ends with 200, and was executed once."""
    client = H2load()
    with table.meeting(client, transport, "10 connections, 100 streams each"):
        place = servers.place(transport)
        before = executed(place)

        said = client.load(place, ONE, tmp_path, calls=5000)

        assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
        assert "status codes: 5000 2xx" in said, said
        assert executed(place) - before == 5000


def executed(place: Place) -> int:
    """How many requests the model has executed."""
    with grpc.insecure_channel(place.target) as channel:
        ask = channel.unary_unary(
            SERVICE + "ModelStatistics",
            ModelStatisticsRequest.SerializeToString,
            ModelStatisticsResponse.FromString,
        )
        answer: ModelStatisticsResponse = ask(ModelStatisticsRequest(name="echo"))
    return answer.model_stats[0].inference_count


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_reflection_client_learns_the_service(
    transport: str, servers: Servers, table: Table
) -> None:
    """What grpcurl does first: list the services, and build a request from what it was told."""
    with table.meeting(REFLECTION, transport, "reflection"):
        told = json.loads(REFLECTION.output(servers.place(transport).target))

        assert set(told["services"]) == set(SERVICES)
        assert "raw_input_contents" in told["fields"]
