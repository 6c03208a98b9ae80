"""What the clients say of servers and models, and how calls go round several servers."""

import asyncio
import json
from typing import Any

import grpc
import pytest
from tests.server.client_driver import Driver, always
from tests.server.fake_server import FakeServer, failing, running

from penstock.client.errors import InferenceError
from penstock_protos import health as health_pb
from penstock_protos import inference as pb

pytestmark = pytest.mark.usefixtures("transport")


def test_yes_and_no_are_booleans(driver: Driver, fake: FakeServer) -> None:
    """Liveness and readiness come as they are."""
    fake.unary["ServerLive"] = always(pb.ServerLiveResponse(live=True))
    fake.unary["ServerReady"] = always(pb.ServerReadyResponse())
    fake.unary["ModelReady"] = always(pb.ModelReadyResponse(ready=True))

    assert driver.server_live() is True
    assert driver.server_ready() is False
    assert driver.model_ready("m", "3") is True


def test_metadata_configuration_and_figures_are_messages(driver: Driver, fake: FakeServer) -> None:
    """What describes a server or a model is the protocol's own message."""
    metadata = pb.ServerMetadataResponse(name="penstock", extensions=["statistics"])
    model = pb.ModelMetadataResponse(name="m", versions=["1"])
    config = pb.ModelConfigResponse()
    config.config.max_batch_size = 8
    stats = pb.ModelStatisticsResponse()
    stats.model_stats.add(name="m", inference_count=5)
    index = pb.RepositoryIndexResponse()
    index.models.add(name="m", version="1", state="READY")
    for name, answer in {
        "ServerMetadata": metadata,
        "ModelMetadata": model,
        "ModelConfig": config,
        "ModelStatistics": stats,
        "RepositoryIndex": index,
    }.items():
        fake.unary[name] = always(answer)

    assert driver.server_metadata().extensions == ["statistics"]
    assert driver.model_metadata("m").versions == ["1"]
    assert driver.model_config("m").max_batch_size == 8
    assert driver.statistics()[0].inference_count == 5
    assert driver.index(ready=True)[0].state == "READY"


def test_load_sends_configuration_and_files(driver: Driver, fake: FakeServer) -> None:
    """A mapping becomes JSON, files come under their names, and files alone get a configuration."""
    sent = []

    def load(data: bytes, _: Any) -> bytes:
        sent.append(pb.RepositoryModelLoadRequest.FromString(data))
        return b""

    fake.unary["RepositoryModelLoad"] = load

    driver.load("m", {"max_batch_size": 4})
    driver.load("m", files={"1/model.py": b"code"})
    driver.load("m")

    assert json.loads(sent[0].parameters["config"].string_param) == {"max_batch_size": 4}
    assert sent[1].parameters["file:1/model.py"].bytes_param == b"code"
    assert json.loads(sent[1].parameters["config"].string_param) == {}
    assert dict(sent[2].parameters) == {}


def test_unload_may_name_the_dependents(driver: Driver, fake: FakeServer) -> None:
    """The flag of the protocol is sent when asked for."""
    sent = []

    def unload(data: bytes, _: Any) -> bytes:
        sent.append(pb.RepositoryModelUnloadRequest.FromString(data))
        return b""

    fake.unary["RepositoryModelUnload"] = unload

    driver.unload("m", unload_dependents=True)

    assert sent[0].model_name == "m"
    assert sent[0].parameters["unload_dependents"].bool_param


def test_health_is_a_word(driver: Driver, fake: FakeServer) -> None:
    """A known service has its status, an unknown one SERVICE_UNKNOWN."""

    def check(data: bytes, context: Any) -> bytes:
        if health_pb.HealthCheckRequest.FromString(data).service:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb.HealthCheckResponse(
            status=health_pb.HealthCheckResponse.SERVING
        ).SerializeToString()

    fake.unary["Check"] = check

    assert driver.health() == "SERVING"
    assert driver.health("model:x") == "SERVICE_UNKNOWN"


def test_wait_ready_waits_until_it_is(driver: Driver, fake: FakeServer) -> None:
    """Refusals and a plain no are waited out."""
    answers = iter([False, True])

    def answer(*_: Any) -> bytes:
        return pb.ServerReadyResponse(ready=next(answers)).SerializeToString()

    fake.unary["ServerReady"] = failing(grpc.StatusCode.UNAVAILABLE, "starting", 2, then=answer)

    driver.wait_ready()

    assert fake.calls["ServerReady"] == 4
    assert len(driver.slept) == 3


def test_wait_ready_ends_with_its_deadline(client_kind: str, runner: asyncio.Runner) -> None:
    """A server that never comes is DEADLINE_EXCEEDED, and the error says who was waited for."""
    driver = Driver(client_kind, runner, target="127.0.0.1:1")

    with pytest.raises(InferenceError, match=r"model 'm' at 127\.0\.0\.1:1 was not ready"):
        driver.wait_ready("m", timeout=0.2)

    driver.close()


def test_several_servers_share_the_calls(client_kind: str, runner: asyncio.Runner) -> None:
    """Calls go round the servers, and one that dies is not noticed."""
    with running() as first, running() as second:
        driver = Driver(client_kind, runner, target=[first.address, second.address])
        while not (first.calls["ModelInfer"] and second.calls["ModelInfer"]):
            driver.infer("echo", {"X": [1]})

        first.stop()
        results = [driver.infer("echo", {"X": [number]}) for number in range(10)]

        assert [result["X"].tolist() for result in results] == [[number] for number in range(10)]
        driver.close()


def test_a_server_that_is_not_serving_gets_no_calls(
    client_kind: str, runner: asyncio.Runner
) -> None:
    """Among several servers only those are asked whose health says SERVING."""
    with running() as draining, running() as healthy:
        draining.health = health_pb.HealthCheckResponse.NOT_SERVING
        driver = Driver(client_kind, runner, target=[draining.address, healthy.address])

        for _ in range(20):
            driver.infer("echo", {"X": [1]})

        assert (draining.calls["ModelInfer"], healthy.calls["ModelInfer"]) == (0, 20)
        driver.close()
