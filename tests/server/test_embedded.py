"""A whole server in this process: real models, a real socket, clients of others."""

import asyncio
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.server_process import write_model
from tests.transports import chosen

from penstock.config import ServerOptions
from penstock.embedded import BackgroundServer
from penstock.rpc import SERVICES
from penstock_protos.health import HealthCheckRequest, HealthCheckResponse
from penstock_protos.inference import ModelInferRequest
from penstock_protos.reflection import ServerReflectionRequest, ServerReflectionResponse
from penstock_runtime.errors import FailedPrecondition

ECHO = "def predict(IN):\n    return {'OUT': IN}\n"
SLOW = "import time\n\ndef predict(IN):\n    time.sleep(float(IN[0]))\n    return {'OUT': IN}\n"
COUNT = "def predict(IN):\n    for n in range(int(IN[0])):\n        yield {'OUT': IN * 0 + n}\n"
DECOUPLED = "model_transaction_policy { decoupled: true }"


def options(root: Path, **more: Any) -> ServerOptions:
    """A server on the loopback with free ports."""
    return ServerOptions(
        model_repository=(str(root),),
        transport=chosen(),
        grpc_address=("127.0.0.1",),
        grpc_port=0,
        metrics_address="127.0.0.1",
        metrics_port=0,
        **more,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "echo", ECHO)
    write_model(root, "slow", SLOW)
    write_model(root, "count", COUNT, DECOUPLED)
    with BackgroundServer(options(root, model_control_mode="explicit", load_model=("*",))) as up:
        yield up


@pytest.fixture
def client(server: BackgroundServer) -> Iterator[triton.InferenceServerClient]:
    opened = triton.InferenceServerClient(server.grpc_address)
    yield opened
    opened.close()


@pytest.fixture
def channel(server: BackgroundServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address) as opened:
        yield opened


def value(number: float) -> triton.InferInput:
    tensor = triton.InferInput("IN", [1], "FP32")
    tensor.set_data_from_numpy(np.array([number], np.float32))
    return tensor


def infer_bytes(model: str, number: float) -> bytes:
    """The same request as bytes."""
    array = np.array([number], np.float32)
    tensor = ModelInferRequest.InferInputTensor(name="IN", datatype="FP32", shape=[1])
    return ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()]
    ).SerializeToString()


def inside(server: BackgroundServer) -> tuple[int, int, int]:
    """Calls, bytes and requests that the server holds."""
    assert server.server is not None
    services = server.server.services
    return services.gate.inflight, services.budget.used, server.server.core.inflight


def test_an_unmodified_client_finds_all_it_expects(client: triton.InferenceServerClient) -> None:
    """Health, metadata, configuration, statistics, index, inference."""
    reply = client.infer("echo", [value(7)], request_id="r1")

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "penstock"
    assert client.get_model_metadata("echo").inputs[0].name == "IN"
    assert client.get_model_config("echo").config.backend == "python"
    assert client.get_inference_statistics("echo").model_stats[0].execution_count > 0
    assert {m.name for m in client.get_model_repository_index().models} == {"echo", "slow", "count"}
    assert (reply.as_numpy("OUT").tolist(), reply.get_response().id) == ([7.0], "r1")


def test_streams_carry_ordinary_and_decoupled_models(client: triton.InferenceServerClient) -> None:
    """Answers, an in-band error, and the empty last message when asked for."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("echo", [value(5)], request_id="a")
    assert answers.get(timeout=10)[0].as_numpy("OUT").tolist() == [5.0]

    client.async_stream_infer("nobody", [value(5)], request_id="b")
    error = answers.get(timeout=10)[1]
    client.async_stream_infer("count", [value(3)], request_id="c", enable_empty_final_response=True)
    results = [answers.get(timeout=10)[0] for _ in range(4)]
    client.stop_stream()

    assert "Request for unknown model: 'nobody' is not found" in error.message()
    assert [r.as_numpy("OUT").tolist() for r in results[:3]] == [[0.0], [1.0], [2.0]]
    finals = [r.get_response().parameters["triton_final_response"].bool_param for r in results]
    assert finals == [False, False, False, True]


def test_errors_arrive_with_code_text_and_details(client: triton.InferenceServerClient) -> None:
    """What Triton's clients match on."""
    with pytest.raises(triton.InferenceServerException) as unknown:
        client.infer("nobody", [value(1)], request_id="9")
    with pytest.raises(triton.InferenceServerException) as decoupled:
        client.infer("count", [value(1)])
    with pytest.raises(triton.InferenceServerException) as shared:
        client.register_system_shared_memory("r", "/k", 4)

    assert unknown.value.status() == "StatusCode.NOT_FOUND"
    assert "Request for unknown model: 'nobody' is not found" in unknown.value.message()
    assert decoupled.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "shared memory is disabled" in shared.value.message()


def test_models_are_unloaded_and_loaded_by_name(client: triton.InferenceServerClient) -> None:
    """Explicit control, and readiness of the model follows."""
    client.unload_model("echo")
    gone = client.is_model_ready("echo")
    client.load_model("echo")

    assert (gone, client.is_model_ready("echo")) == (False, True)
    assert client.infer("echo", [value(2)]).as_numpy("OUT").tolist() == [2.0]


def test_health_of_grpc_follows_each_model(
    client: triton.InferenceServerClient, channel: grpc.Channel
) -> None:
    """Check now, Watch at every change."""
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    request = HealthCheckRequest(service="model:echo").SerializeToString()

    watching = watch(request, timeout=30)
    states = [HealthCheckResponse.FromString(next(watching)).status]
    client.unload_model("echo")
    states.append(HealthCheckResponse.FromString(next(watching)).status)
    client.load_model("echo")
    states.append(HealthCheckResponse.FromString(next(watching)).status)
    watching.cancel()

    assert states == [1, 2, 1]
    assert HealthCheckResponse.FromString(check(request, timeout=10)).status == 1


def test_reflection_lists_what_is_served(channel: grpc.Channel) -> None:
    """Under both names of the service."""
    ask = ServerReflectionRequest(list_services="").SerializeToString()
    for service in ("grpc.reflection.v1", "grpc.reflection.v1alpha"):
        method = channel.stream_stream(f"/{service}.ServerReflection/ServerReflectionInfo")
        (data,) = list(method(iter([ask]), timeout=10))
        found = ServerReflectionResponse.FromString(data).list_services_response.service
        assert {item.name for item in found} == set(SERVICES)


def test_metrics_and_health_are_there_over_http(server: BackgroundServer) -> None:
    """One scrape tells of models, calls and the loop."""
    base = f"http://{server.metrics_address}"
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    with urllib.request.urlopen(f"{base}/v2/health/ready", timeout=10) as reply:
        ready = reply.status

    assert ready == 200
    for name in (
        'nv_inference_request_success{model="echo",version="1"}',
        "grpc_server_handled_total",
        "penstock_event_loop_lag_seconds",
        "penstock_inflight_bytes_limit",
    ):
        assert name in text


@pytest.mark.asyncio
async def test_callers_who_go_away_leave_nothing_behind(server: BackgroundServer) -> None:
    """Hundreds of cancelled and of expired calls: no call, byte or request stays inside."""
    async with grpc.aio.insecure_channel(server.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        blocker = asyncio.ensure_future(infer(infer_bytes("slow", 0.3), timeout=30))
        while inside(server)[2] == 0:
            await asyncio.sleep(0.01)
        cancelled = [infer(infer_bytes("slow", 0.0), timeout=30) for _ in range(200)]
        expired = [infer(infer_bytes("slow", 0.0), timeout=0.05) for _ in range(200)]
        await asyncio.sleep(0.1)
        for call in cancelled:
            call.cancel()
        codes = {(await call.code()).name for call in expired}
        await blocker
        reply = await infer(infer_bytes("slow", 0.0), timeout=30)

    assert reply
    assert codes <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    for _ in range(500):
        if inside(server) == (0, 0, 0):
            break
        await asyncio.sleep(0.01)
    assert inside(server) == (0, 0, 0)


def test_many_callers_at_once_all_get_their_own_answers(
    client: triton.InferenceServerClient,
) -> None:
    """No answer goes astray."""
    wrong: list[float] = []

    def call(start: int) -> None:
        for number in range(start, start + 50):
            got = client.infer("echo", [value(number)]).as_numpy("OUT")[0]
            if got != number:
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


FLOOD = """
import numpy as np

def predict(IN):
    while True:
        yield {"OUT": np.zeros(65536, np.float32)}
"""
FLOOD_CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 65536 ] }
model_transaction_policy { decoupled: true }
"""


def test_a_reader_who_takes_nothing_is_given_up_and_costs_nobody_else(tmp_path: Path) -> None:
    """RESOURCE_EXHAUSTED, the instance is free again, and nothing stays inside."""
    (write_model(tmp_path, "flood", FLOOD) / "config.pbtxt").write_text(FLOOD_CONFIG)
    limits = {"stream_stall_secs": 0.2, "stream_max_unsent_bytes": 1 << 20}
    with (
        BackgroundServer(options(tmp_path, **limits)) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        method = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        call = method(iter([infer_bytes("flood", 1)]), timeout=60)
        next(call)
        idle = wait_until(lambda: inside(server) == (0, 0, 0))
        with pytest.raises(grpc.RpcError) as error:
            list(call)

    assert idle
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_a_server_that_cannot_start_raises_where_it_was_asked_to(tmp_path: Path) -> None:
    """A port that is taken is the caller's exception, and the thread is gone."""
    write_model(tmp_path, "echo", ECHO)
    with BackgroundServer(options(tmp_path)) as first:
        taken = ServerOptions(
            model_repository=(str(tmp_path),), grpc_address=(first.grpc_address,), metrics_port=0
        )
        with pytest.raises(FailedPrecondition, match="in use"):
            BackgroundServer(taken).start()

    assert first.exit_code == 0
