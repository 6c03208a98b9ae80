"""Health, metadata, the hooks of Triton's tests, and the details that stand beside a status."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import stub_of, tensors, write
from tests.e2e.running import Running, ServerThread, options
from tests.http2.raw import eventually
from tests.server_process import server_process, write_model
from tests.transports import TRANSPORTS
from tritonclient.grpc import service_pb2

from penstock_protos import rpc_status
from penstock_protos.health import HealthCheckRequest, HealthCheckResponse, HealthListResponse

CODE = """
import threading

from penstock import FP32, model

gate = threading.Event()


@model
def held(X: FP32[1]) -> FP32[1].named("Y"):
    if X[0] < 0:
        gate.wait(20)
    return X
"""
FULL = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }"
ONE = np.ones((1, 1), np.float32)
STATES = HealthCheckResponse.ServingStatus
HEALTH = "/grpc.health.v1.Health/"


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server in explicit mode, as operators of Triton start it."""
    root = tmp_path_factory.mktemp("models")
    write(root, "held", CODE)
    write(root, "full", CODE.replace("@model", "@model(max_batch_size=1)"), FULL)
    settings = options(
        [root], transport=request.param, model_control_mode="explicit", load_model=("*",)
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.target) as made:
        yield made


def gate(running: Running, model: str) -> Any:
    """What the model waits for."""
    served = running.server.core.model(model)
    return served._loaded._target.__globals__["gate"]  # type: ignore[attr-defined]


def asked(name: str) -> bytes:
    """A question for the health of this name."""
    return bytes(HealthCheckRequest(service=name).SerializeToString())


def status(data: bytes) -> int:
    """What the answer says."""
    return int(HealthCheckResponse.FromString(data).status)


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService", "model:held"])
def test_check_tells_the_health_of_what_there_is(channel: grpc.Channel, name: str) -> None:
    """Of the server, of its service, of each model; probes ask so."""
    answer = channel.unary_unary(HEALTH + "Check")(asked(name), timeout=20)

    assert status(answer) == STATES.SERVING


def test_check_of_what_there_is_not(channel: grpc.Channel) -> None:
    """NOT_FOUND."""
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(HEALTH + "Check")(asked("nowhere"), timeout=20)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_list_tells_all_of_it(channel: grpc.Channel) -> None:
    """One answer with every name."""
    answer = HealthListResponse.FromString(channel.unary_unary(HEALTH + "List")(b"", timeout=20))

    assert {"", "inference.GRPCInferenceService", "model:held"} <= set(answer.statuses)
    assert answer.statuses["model:held"].status == STATES.SERVING


def test_watch_tells_the_state_and_each_change(running: Running, channel: grpc.Channel) -> None:
    """Once at the start; of an unknown name that it is unknown, and the stream stays."""
    watching = channel.unary_stream(HEALTH + "Watch")
    unknown, model = (
        watching(asked("nowhere"), timeout=20),
        watching(asked("model:full"), timeout=20),
    )
    found = [status(next(unknown)), status(next(model))]
    with triton.InferenceServerClient(running.target) as client:
        client.unload_model("full")
        found.append(status(next(model)))
        client.load_model("full")
        found.append(status(next(model)))

    assert found == [
        STATES.SERVICE_UNKNOWN,
        STATES.SERVING,
        STATES.NOT_SERVING,
        STATES.SERVING,
    ]
    assert unknown.is_active()
    unknown.cancel()
    model.cancel()


def test_the_extensions_are_those_that_are_enabled(running: Running) -> None:
    """Each under its name of the protocol, and none that would answer UNIMPLEMENTED."""
    with triton.InferenceServerClient(running.target) as client:
        metadata = client.get_server_metadata()

    assert metadata.name == "penstock"
    assert metadata.version
    assert list(metadata.extensions) == [
        "classification",
        "sequence",
        "model_repository",
        "model_repository(unload_dependents)",
        "schedule_policy",
        "model_configuration",
        "binary_tensor_data",
        "parameters",
        "statistics",
        "trace",
    ]


def details(error: grpc.RpcError) -> list[tuple[str, Any]]:
    """The details beside a status, by the name of their message."""
    trailing = dict(error.trailing_metadata())
    rich = rpc_status.Status.FromString(trailing["grpc-status-details-bin"])
    names = [detail.type_url.rpartition(".")[2] for detail in rich.details]
    return [
        (name, getattr(rpc_status, name).FromString(detail.value))
        for name, detail in zip(names, rich.details, strict=True)
    ]


def test_a_wrong_input_is_named_in_the_details(running: Running) -> None:
    """BadRequest has the field, ErrorInfo a reason that does not change."""
    request = service_pb2.ModelInferRequest(model_name="held", raw_input_contents=[bytes(8)])
    request.inputs.add(name="X", datatype="FP32", shape=[2])
    with stub_of(running) as stub, pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)
    found = dict(details(refused.value))

    assert "unexpected shape for input 'X'" in refused.value.details()
    assert "X" in found["BadRequest"].field_violations[0].field
    assert found["ErrorInfo"].reason.isupper()


def test_who_may_come_again_is_told_when(running: Running) -> None:
    """RetryInfo, and gRPC's own pushback beside it."""
    request = service_pb2.ModelInferRequest(model_name="full")
    request.inputs.add(name="X", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.float32(-1).tobytes())
    held = running.server.core.model("full")
    with stub_of(running) as stub:
        inside = [stub.ModelInfer.future(request, timeout=20)]
        eventually(lambda: held.unanswered == 1 and not held.queue_stats().requests, "one executes")
        inside.append(stub.ModelInfer.future(request, timeout=20))
        eventually(lambda: held.queue_stats().requests == 1, "one waits")
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=20)
        gate(running, "full").set()
        for call in inside:
            call.result(20)
    found = dict(details(refused.value))

    assert "Exceeds maximum queue size" in refused.value.details()
    assert found["RetryInfo"].retry_delay.ToNanoseconds() > 0
    assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


def test_a_server_that_stops_says_so_and_answers_what_it_has(tmp_path: Path) -> None:
    """Health of the protocol is UNAVAILABLE, health of gRPC NOT_SERVING, all else is refused in
    Triton's words; what is inside is answered.
    """
    write(tmp_path, "held", CODE)
    thread = ServerThread(options([tmp_path]))
    with (
        thread as running,
        triton.InferenceServerClient(running.target) as client,
        grpc.insecure_channel(running.target) as channel,
    ):
        answers: list[Any] = []
        tensor = tensors(X=-ONE[0])
        client.async_infer("held", tensor, lambda result, error: answers.append(error))
        eventually(lambda: running.server.core.inflight == 1, "one is inside")
        running.loop.call_soon_threadsafe(thread._stop.ask, "the test")
        eventually(lambda: running.server.services.gate.closed, "nothing new is taken")
        refused = []
        for ask in (client.is_server_live, client.is_server_ready, client.get_server_metadata):
            with pytest.raises(triton.InferenceServerException) as error:
                ask()
            refused.append((error.value.status(), error.value.message()))
        health = status(channel.unary_unary(HEALTH + "Check")(asked(""), timeout=20))
        gate(running, "held").set()
        eventually(lambda: answers == [None], "what was inside is answered")

    exiting = ("StatusCode.UNAVAILABLE", "Server exiting")
    text = "GRPC server is shutting down and has stopped accepting new requests."
    assert refused == [exiting, exiting, ("StatusCode.UNAVAILABLE", text)]
    assert health == STATES.NOT_SERVING


def test_the_hooks_of_tritons_tests_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC delays all but inference; those that aim at the
    inside of Triton do nothing.
    """
    write_model(tmp_path, "echo", "def predict(IN):\n    return {'OUT': IN}\n")
    monkeypatch.setenv("TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC", "60")
    for name in ("RESPONSE", "COMPLETE", "PROCESS", "PROCESS_ENTRY", "NOTIFICATION", "ENQUEUE"):
        monkeypatch.setenv(f"TRITONSERVER_DELAY_GRPC_{name}", "60000")
    for name in ("COMPLETE_EXEC", "COMPLETION"):
        monkeypatch.setenv(f"TRITONSERVER_DELAY_RESPONSE_{name}", "60000")
    with (
        server_process(tmp_path) as server,
        triton.InferenceServerClient(server.address()) as client,
    ):
        server.wait_for("ready")
        live = client._client_stub.ServerLive.future(service_pb2.ServerLiveRequest())
        for _ in range(3):
            client.infer("echo", tensors(IN=ONE[0]), client_timeout=50)

        assert not live.done()
        live.cancel()
