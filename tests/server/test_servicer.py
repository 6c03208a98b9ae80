"""The calls of the protocol, answered as clients of Triton expect them, without a transport."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeShelf,
    echo_model,
    request_bytes,
    services_for,
)

from penstock.config import ServerOptions
from penstock.services import Services
from penstock.transport.base import Refusal
from penstock_protos.inference import (
    InferParameter,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelRepositoryParameter,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from penstock_runtime.errors import Internal, Status

TRUE = InferParameter(bool_param=True)
Unary = Callable[[bytes, FakeCall], Awaitable[bytes]]


def method(services: Services, name: str, service: str = "inference.GRPCInferenceService") -> Unary:
    """The guarded handler of a unary RPC."""
    path = f"/{service}/{name}"
    unary = next(m.unary for m in services.methods if m.path == path)
    assert unary is not None
    return unary


async def refused(services: Services, name: str, data: bytes) -> tuple[Status, str]:
    """How an RPC that fails ends."""
    with pytest.raises(Refusal) as refusal:
        await method(services, name)(data, FakeCall())
    return refusal.value.answer.status, refusal.value.answer.text


# -- health, metadata ----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_ready_follows_the_models_and_live_does_not() -> None:
    """A server that loads is live and not ready."""
    shelf = FakeShelf(echo_model())
    shelf.is_ready = False
    services = services_for(shelf)

    live = await method(services, "ServerLive")(b"", FakeCall())
    ready = await method(services, "ServerReady")(b"", FakeCall())

    assert ServerLiveResponse.FromString(live).live
    assert not ServerReadyResponse.FromString(ready).ready


@pytest.mark.asyncio
async def test_without_strictness_a_server_is_ready_once_it_is_up() -> None:
    """--strict-readiness=false does not look at the models."""
    shelf = FakeShelf(echo_model())
    shelf.is_ready = False
    services = services_for(shelf, ServerOptions(strict_readiness=False))

    ready = await method(services, "ServerReady")(b"", FakeCall())

    assert ServerReadyResponse.FromString(ready).ready


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("echo", "", True), ("echo", "1", True), ("echo", "9", False), ("nobody", "", False)],
)
async def test_a_model_that_is_not_there_is_not_ready_rather_than_an_error(
    name: str, version: str, ready: bool
) -> None:
    """Clients poll after an unload, and raise on anything but OK."""
    data = ModelReadyRequest(name=name, version=version).SerializeToString()

    reply = await method(services_for(FakeShelf(echo_model())), "ModelReady")(data, FakeCall())

    assert ModelReadyResponse.FromString(reply).ready is ready


@pytest.mark.asyncio
async def test_a_server_that_goes_down_says_so() -> None:
    """Health of the protocol is UNAVAILABLE once nothing new is taken."""
    services = services_for(FakeShelf(echo_model()))
    services.gate.close()

    for name in ("ServerLive", "ServerReady", "ModelReady"):
        assert await refused(services, name, b"") == (Status.UNAVAILABLE, "Server exiting")


@pytest.mark.asyncio
async def test_metadata_lists_only_what_is_there() -> None:
    """The name is the operator's; no extension is listed that answers UNIMPLEMENTED."""
    services = services_for(FakeShelf(), ServerOptions(server_name="triton"))

    reply = ServerMetadataResponse.FromString(
        await method(services, "ServerMetadata")(b"", FakeCall())
    )

    assert reply.name == "triton"
    assert {"statistics", "classification"} <= set(reply.extensions)
    assert "system_shared_memory" not in reply.extensions


@pytest.mark.asyncio
async def test_a_model_that_batches_shows_its_batch_dimension() -> None:
    """Shapes are those that travel."""
    data = ModelMetadataRequest(name="echo").SerializeToString()

    reply = ModelMetadataResponse.FromString(
        await method(services_for(FakeShelf(echo_model())), "ModelMetadata")(data, FakeCall())
    )

    assert (reply.name, list(reply.versions)) == ("echo", ["1"])
    assert list(reply.inputs[0].shape) == [-1, -1]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "name", ["ModelMetadata", "ModelConfig", "ModelStatistics", "ServerMetadata", "RepositoryIndex"]
)
async def test_malformed_and_oversized_messages_are_refused(name: str) -> None:
    """INVALID_ARGUMENT, before anything is built."""
    services = services_for(FakeShelf(echo_model()))

    assert (await refused(services, name, b"\x0a\xff"))[0] is Status.INVALID_ARGUMENT
    assert (await refused(services, name, b"\x0a\x00" * 600_000))[0] is Status.INVALID_ARGUMENT


# -- repository ----------------------------------------------------------------------------------

TRITON = RepositoryModelLoadRequest(model_name="m")
KSERVE = RepositoryModelLoadRequest(repository_name="m")


@pytest.mark.asyncio
@pytest.mark.parametrize("request_", [TRITON, KSERVE], ids=["triton", "kserve"])
async def test_both_dialects_load(request_: RepositoryModelLoadRequest) -> None:
    """The model's name is in field 2, or in field 1 alone; the answer names it."""
    shelf = FakeShelf()
    services = services_for(shelf)

    reply = await method(services, "RepositoryModelLoad")(request_.SerializeToString(), FakeCall())

    answer = RepositoryModelLoadResponse.FromString(reply)
    assert (answer.model_name, answer.isLoaded) == ("m", True)
    assert [name for name, _ in shelf.loaded] == ["m"]
    services.close()


@pytest.mark.asyncio
async def test_load_parameters_reach_the_repository() -> None:
    """config and file: overrides are passed on; mlserver's service is the same one."""
    request = RepositoryModelLoadRequest(
        model_name="m",
        parameters={
            "config": ModelRepositoryParameter(string_param="{}"),
            "file:1/model.py": ModelRepositoryParameter(bytes_param=b"x"),
        },
    )
    shelf = FakeShelf()
    services = services_for(shelf)
    alias = method(
        services, "RepositoryModelLoad", "inference.model_repository.ModelRepositoryService"
    )

    await alias(request.SerializeToString(), FakeCall())

    ((_, overrides),) = shelf.loaded
    assert (overrides.config_json, dict(overrides.files)) == ("{}", {"1/model.py": b"x"})
    services.close()


@pytest.mark.asyncio
async def test_unload_passes_its_parameter_on() -> None:
    """unload_dependents is a bool."""
    request = RepositoryModelUnloadRequest(
        model_name="m", parameters={"unload_dependents": ModelRepositoryParameter(bool_param=True)}
    )
    shelf = FakeShelf()
    services = services_for(shelf)

    reply = await method(services, "RepositoryModelUnload")(request.SerializeToString(), FakeCall())

    assert RepositoryModelUnloadResponse.FromString(reply).isUnloaded
    assert shelf.unloaded == [("m", True)]
    services.close()


@pytest.mark.asyncio
async def test_repository_calls_refuse_what_they_do_not_do() -> None:
    """A repository beside a model, parameters that nobody knows, and a load that fails."""
    shelf = FakeShelf()
    shelf.failing = Internal("failed to load 'm', failed to poll from model repository")
    services = services_for(shelf)
    both = RepositoryModelLoadRequest(repository_name="r", model_name="m")
    odd = RepositoryModelLoadRequest(
        model_name="m", parameters={"odd": ModelRepositoryParameter(bool_param=True)}
    )
    named = RepositoryIndexRequest(repository_name="r")

    not_supported = (Status.UNIMPLEMENTED, "'repository_name' specification is not supported")
    load, index = "RepositoryModelLoad", "RepositoryIndex"
    assert await refused(services, load, both.SerializeToString()) == not_supported
    assert await refused(services, index, named.SerializeToString()) == not_supported
    status, text = await refused(services, load, odd.SerializeToString())
    assert (status, "unrecognized load parameter" in text) == (Status.INVALID_ARGUMENT, True)
    assert (await refused(services, load, TRITON.SerializeToString()))[0] is Status.INTERNAL
    services.close()


@pytest.mark.asyncio
async def test_the_index_lists_models_with_their_states() -> None:
    """Name, version, state."""
    services = services_for(FakeShelf(echo_model()))

    reply = RepositoryIndexResponse.FromString(
        await method(services, "RepositoryIndex")(b"", FakeCall())
    )

    assert [(m.name, m.version, m.state) for m in reply.models] == [("echo", "1", "READY")]
    services.close()


# -- what is not there ---------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "name",
    [
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "LogSettings",
    ],
)
async def test_calls_that_are_not_there_say_so(name: str) -> None:
    """UNIMPLEMENTED, with a text; that of shared memory is Triton's."""
    status, text = await refused(services_for(FakeShelf()), name, b"")

    assert status is Status.UNIMPLEMENTED
    assert text
    if name.endswith("egister"):
        assert text == (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to "
            "enable."
        )


@pytest.mark.asyncio
async def test_the_hook_of_tritons_tests_delays_all_but_inference() -> None:
    """Metadata waits, ModelInfer does not."""
    options = replace(ServerOptions(), grpc_response_delay_s=30.0)
    services = services_for(FakeShelf(echo_model()), options)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(method(services, "ServerLive")(b"", FakeCall()), 0.01)

    reply = await method(services, "ModelInfer")(request_bytes(), FakeCall())
    assert ModelInferResponse.FromString(reply).model_name == "echo"


def test_nothing_is_shared_between_answers() -> None:
    """The parameters of a frozen response are not changed by timing."""
    from penstock.timing import with_timing
    from penstock_runtime.request import InferRequest, InferResponse

    response = InferResponse("m", "1", parameters=MappingProxyType({"a": 1}))

    timed = with_timing(InferRequest("m", ()), response)

    assert dict(response.parameters) == {"a": 1}
    assert timed.parameters["a"] == 1
