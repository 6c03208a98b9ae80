"""Restricted protocols through real sockets: who knows the secret is served, nobody else is."""

import queue
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.server_process import server_process, write_model
from tests.transports import TRANSPORTS, chosen
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from penstock.cli.main import main
from penstock.rpc import REPOSITORY_SERVICE, TABLE, Category, Kind, Rpc

SECRET, OTHER = "hunter2=admin:a,b", "hunter2-infer"
ADMIN, INFER = "triton-grpc-protocol-admin-key", "triton-grpc-protocol-infer-key"
FLAGS = (
    "health,metadata,model-repository,model-config,statistics,shared-memory,trace,logging:"
    f"admin-key={SECRET}",
    f"inference:infer-key={OTHER}",
)
RESTRICTED = [rpc for rpc in TABLE if rpc.category is not Category.REFLECTION]


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server on each transport of which everything is restricted, by two secrets."""
    settings = options([MODELS], grpc_restricted_protocol=FLAGS, transport=request.param)
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


@pytest.fixture
def channel(running: Running) -> Iterator[Any]:
    with grpc.insecure_channel(running.target) as made:
        yield made


def text_of(header: str) -> str:
    return f"This protocol is restricted, expecting header '{header}'"


def header_of(rpc: Rpc) -> str:
    return INFER if rpc.category is Category.INFERENCE else ADMIN


def secret_of(rpc: Rpc) -> str:
    return OTHER if rpc.category is Category.INFERENCE else SECRET


def inputs(module: Any = triton) -> list[Any]:
    """Those of `simple`."""
    made = []
    for name in ("INPUT0", "INPUT1"):
        tensor = module.InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(np.ones((1, 16), np.int32))
        made.append(tensor)
    return made


def ended(channel: Any, rpc: Rpc, *metadata: tuple[str, str]) -> tuple[str, str]:
    """Status and text of a call with an empty message; of a stream, after its first answer."""
    try:
        if rpc.kind is Kind.UNARY:
            channel.unary_unary(rpc.path)(b"", metadata=metadata, timeout=30)
        else:
            call = channel.stream_stream(rpc.path)(iter((b"",)), metadata=metadata, timeout=30)
            next(call, None)
            call.cancel()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


# -- every row -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rpc", RESTRICTED, ids=lambda rpc: rpc.path)
def test_every_method_is_closed_to_who_does_not_know_its_secret(channel: Any, rpc: Rpc) -> None:
    """No header, an empty, a wrong, the other group's: status and text are Triton's."""
    header, refused = header_of(rpc), ("UNAVAILABLE", text_of(header_of(rpc)))
    other = (INFER, OTHER) if header == ADMIN else (ADMIN, SECRET)
    wrong = [(), ((header, ""),), ((header, "guess"),), (other,), ((header, other[1]),)]

    outcomes = [ended(channel, rpc, *metadata) for metadata in wrong]
    let_in = ended(channel, rpc, (header, secret_of(rpc)))

    assert outcomes == [refused] * len(wrong)
    assert let_in != refused


def test_reflection_stays_open(channel: Any) -> None:
    """It is no protocol of Triton's, and tells what is public anyway."""
    for rpc in TABLE:
        if rpc.category is Category.REFLECTION:
            assert ended(channel, rpc) == ("OK", "")


def test_a_refusal_says_in_its_details_what_it_is(channel: Any) -> None:
    """A client can tell it from a server that is down, which has the same status, and does not try
    again.
    """
    rpc = next(row for row in TABLE if row.name == "ModelInfer")

    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(rpc.path)(b"", timeout=30)

    trailing = dict(error.value.trailing_metadata())
    assert b"RESTRICTED_PROTOCOL" in trailing["grpc-status-details-bin"]
    assert trailing["grpc-retry-pushback-ms"] == "-1"
    assert "hunter2" not in repr(trailing)


# -- tritonclient --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda client, headers: client.is_server_live(headers=headers),
        lambda client, headers: client.is_model_ready("simple", headers=headers),
        lambda client, headers: client.get_server_metadata(headers=headers),
        lambda client, headers: client.get_model_config("simple", headers=headers),
        lambda client, headers: client.get_inference_statistics(headers=headers),
        lambda client, headers: client.get_model_repository_index(headers=headers),
    ],
    ids=["live", "ready", "metadata", "config", "statistics", "index"],
)
def test_tritonclient_is_served_with_the_header_only(
    client: Any, ask: Callable[[Any, dict[str, str] | None], Any]
) -> None:
    """As its programs for Triton are."""
    with pytest.raises(InferenceServerException, match=text_of(ADMIN)) as error:
        ask(client, None)

    assert error.value.status() == "StatusCode.UNAVAILABLE"
    assert ask(client, {ADMIN: SECRET})


def test_inference_needs_its_own_secret_on_the_quick_way_too(client: Any) -> None:
    """Known kinds of requests as well, which are admitted without being parsed."""
    for _ in range(3):
        result = client.infer("simple", inputs(), headers={INFER: OTHER})
        assert result.as_numpy("OUTPUT0").tolist() == [[2] * 16]
        for headers in (None, {ADMIN: SECRET}, {INFER: SECRET}):
            with pytest.raises(InferenceServerException, match=text_of(INFER)):
                client.infer("simple", inputs(), headers=headers)


def test_a_stream_is_asked_once_at_its_start(client: Any) -> None:
    """Whoever is let in may send any number of requests."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(
        partial(lambda kept, result, error: kept.put((result, error)), answers),
        headers={INFER: OTHER},
    )
    for _ in range(3):
        client.async_stream_infer("simple", inputs())
    got = [answers.get(timeout=30) for _ in range(3)]
    client.stop_stream()

    assert [error for _, error in got] == [None] * 3


def test_a_stream_without_the_secret_ends_with_the_status(channel: Any) -> None:
    """Not with messages about each request: nothing of it is read."""
    request = service_pb2.ModelInferRequest(model_name="simple")
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    with pytest.raises(grpc.RpcError) as error:
        list(stub.ModelStreamInfer(iter((request,) * 3), timeout=30))

    assert (error.value.code().name, error.value.details()) == ("UNAVAILABLE", text_of(INFER))


def test_mlservers_names_lead_to_the_same_refusal(channel: Any) -> None:
    """The other service of the same handlers is no way round."""
    for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        rpc = next(r for r in TABLE if (r.service, r.name) == (REPOSITORY_SERVICE, name))

        assert ended(channel, rpc) == ("UNAVAILABLE", text_of(ADMIN))


@pytest.mark.asyncio
async def test_tritonclient_of_asyncio_is_served_alike(running: Running) -> None:
    """Refused without the header, served with it."""
    async with triton_aio.InferenceServerClient(running.target) as client:
        with pytest.raises(InferenceServerException, match=text_of(INFER)):
            await client.infer("simple", inputs(triton_aio))
        result = await client.infer("simple", inputs(triton_aio), headers={INFER: OTHER})

    assert result.as_numpy("OUTPUT0").tolist() == [[2] * 16]


def test_our_own_command_line_can_send_the_secret(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probes and administrators use `--metadata`."""
    closed = main(["health", "--url", running.target])
    opened = main(["health", "--url", running.target, "--metadata", f"{ADMIN}={SECRET}"])

    assert (closed != 0, opened) == (True, 0)
    assert "hunter2" not in "".join(capsys.readouterr())


def test_refusals_are_counted_and_reach_no_model(running: Running, client: Any) -> None:
    """`grpc_server_handled_total` has them; the model's statistics have not."""
    headers = {ADMIN: SECRET}
    before = client.get_inference_statistics("simple", headers=headers).model_stats[0]
    refused = handled(running)

    for _ in range(5):
        with pytest.raises(InferenceServerException):
            client.infer("simple", inputs())

    after = client.get_inference_statistics("simple", headers=headers).model_stats[0]
    assert after == before
    assert handled(running) == refused + 5


def handled(running: Running) -> float:
    """How many calls of ModelInfer ended as UNAVAILABLE."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    assert "hunter2" not in text
    words = ("grpc_server_handled_total", 'grpc_method="ModelInfer"', 'grpc_code="UNAVAILABLE"')
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


# -- a process -----------------------------------------------------------------------------------


def test_a_process_tells_what_is_restricted_and_never_the_secret(tmp_path: Path) -> None:
    """Not with every record of every level and the access log, nor in what models are told."""
    code = "def predict(IN):\n    return {'OUT': IN}\n"
    write_model(tmp_path, "echo", code)
    flags = [f"--grpc-restricted-protocol={flag}" for flag in FLAGS]
    more = ("--log-verbose=1", "--access-log", f"--transport={chosen()}")
    with server_process(tmp_path, *flags, *more, "--grpc-header-forward-pattern=.*") as server:
        address = server.address()
        told = server.wait_for("restricted protocols").strip()
        server.wait_for("ready")
        tensor = triton.InferInput("IN", [1], "FP32")
        tensor.set_data_from_numpy(np.ones(1, np.float32))
        with triton.InferenceServerClient(address) as client:
            for secret in (SECRET, OTHER):
                with pytest.raises(InferenceServerException, match="is restricted"):
                    client.infer("echo", [tensor], headers={INFER: secret[:-1]})
            client.infer("echo", [tensor], headers={INFER: OTHER})
            assert client.is_server_live(headers={ADMIN: SECRET})
        server.wait_for("ServerLive")
        server.process.terminate()
        assert server.exit_code() == 0

    assert f" restricted protocols: health ({ADMIN}), metadata ({ADMIN}), " in told
    assert told.endswith(f"inference ({INFER})")
    assert "hunter2" not in "".join(server.said)


def test_every_process_of_several_asks_for_the_secret(tmp_path: Path) -> None:
    """Whichever a connection comes to."""
    write_model(tmp_path, "echo", "def predict(IN):\n    return {'OUT': IN}\n")
    flags = [f"--grpc-restricted-protocol={flag}" for flag in FLAGS]
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with server_process(tmp_path, *flags, "--processes=2", f"--transport={chosen()}") as server:
        address = server.address()
        server.wait_for(": ready")
        for _ in range(8):
            with triton.InferenceServerClient(address, channel_args=alone) as client:
                with pytest.raises(InferenceServerException, match=text_of(ADMIN)):
                    client.is_server_live()
                assert client.is_server_live(headers={ADMIN: SECRET})
        server.process.terminate()
        assert server.exit_code() == 0

    assert "hunter2" not in "".join(server.said)
