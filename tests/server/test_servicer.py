"""The calls of the protocol, answered as clients of Triton expect them, without a transport."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeModel,
    FakeShelf,
    Job,
    echo_model,
    request_bytes,
    services_for,
)

from penstock.config import ServerOptions
from penstock.services import Services
from penstock.transport.base import Refusal
from penstock_protos.inference import (
    InferParameter,
    ModelInferRequest,
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
from penstock_runtime.errors import Internal, InvalidArgument, Status

TRUE = InferParameter(bool_param=True)
Unary = Callable[[bytes, FakeCall], Awaitable[bytes]]


def method(services: Services, name: str, service: str = "inference.GRPCInferenceService") -> Unary:
    """The guarded handler of a unary RPC."""
    path = f"/{service}/{name}"
    unary = next(m.unary for m in services.methods if m.path == path)
    assert unary is not None
    return unary


async def infer(
    services: Services, data: bytes, call: FakeCall | None = None
) -> ModelInferResponse:
    """ModelInfer, parsed."""
    reply = await method(services, "ModelInfer")(data, call or FakeCall())
    return ModelInferResponse.FromString(reply)


async def refused(services: Services, name: str, data: bytes) -> tuple[Status, str]:
    """How an RPC that fails ends."""
    with pytest.raises(Refusal) as refusal:
        await method(services, name)(data, FakeCall())
    return refusal.value.answer.status, refusal.value.answer.text


# -- ModelInfer ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_answer_bears_the_requests_id_and_the_version_that_ran() -> None:
    """id and model come back, outputs are raw."""
    reply = await infer(services_for(FakeShelf(echo_model())), request_bytes(request_id="x7"))

    assert (reply.model_name, reply.model_version, reply.id) == ("echo", "1", "x7")
    assert reply.raw_output_contents[0] == b"\x00\x00\x40\x40"


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["metadata", "parameter"])
async def test_typed_outputs_are_there_for_those_who_ask(by: str) -> None:
    """A metadata key or a request parameter switches to typed contents."""
    services = services_for(FakeShelf(echo_model()))
    call = FakeCall(metadata={"penstock-typed-output": "true"} if by == "metadata" else {})
    parameters = {"penstock_typed_output": TRUE} if by == "parameter" else None

    reply = await infer(services, request_bytes(parameters=parameters), call)

    assert list(reply.outputs[0].contents.fp32_contents) == [3.0]
    assert not reply.raw_output_contents


@pytest.mark.asyncio
async def test_times_are_told_on_request_only() -> None:
    """penstock_timing adds where the time went; without it nothing is added."""
    services = services_for(FakeShelf(echo_model()))

    plain = await infer(services, request_bytes())
    timed = await infer(services, request_bytes(parameters={"penstock_timing": TRUE}))

    assert not plain.parameters
    assert timed.parameters["penstock_queue_us"].int64_param == 1
    assert timed.parameters["penstock_compute_infer_us"].int64_param == 3
    assert timed.parameters["penstock_batch_size"].int64_param == 5
    assert timed.parameters["penstock_instance"].string_param == "echo_0_0"
    assert timed.parameters["penstock_total_us"].int64_param >= 0


@pytest.mark.asyncio
async def test_the_calls_deadline_is_the_requests() -> None:
    """What gRPC knows of the caller's patience reaches the queue."""
    model = echo_model()
    deadline = time.monotonic_ns() + 10**9

    await infer(services_for(FakeShelf(model)), request_bytes(), FakeCall(deadline_ns=deadline))

    assert model.jobs[0].request.deadline_ns == deadline


@pytest.mark.asyncio
async def test_a_caller_who_goes_away_cancels_the_request() -> None:
    """The stream is told, the budget is given back, and the cancellation goes on."""
    model = FakeModel()
    services = services_for(FakeShelf(model))
    task = asyncio.ensure_future(infer(services, request_bytes()))
    while not model.jobs:
        await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert model.jobs[0].stream.cancelled
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_errors_of_the_engine_name_the_request_and_others_do_not() -> None:
    """The prefix is that of Triton."""
    model = FakeModel(answer=lambda job: job.stream.fail(InvalidArgument("no", scheduled=True)))
    services = services_for(FakeShelf(model))

    assert (await refused(services, "ModelInfer", request_bytes(request_id="7")))[1] == (
        "[request id: 7] no"
    )
    assert (await refused(services, "ModelInfer", request_bytes()))[1] == (
        "[request id: <id_unknown>] no"
    )
    status, text = await refused(services, "ModelInfer", b"\xff\xff")
    assert (status, text.startswith("[request id")) == (Status.INVALID_ARGUMENT, False)


@pytest.mark.asyncio
async def test_a_decoupled_model_needs_a_stream() -> None:
    """UNIMPLEMENTED, and the model never sees the request."""
    model = FakeModel("many", decoupled=True)

    answer = await refused(services_for(FakeShelf(model)), "ModelInfer", request_bytes("many"))

    assert answer == (
        Status.UNIMPLEMENTED,
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
    )
    assert not model.jobs


@pytest.mark.asyncio
async def test_several_responses_to_a_unary_call_are_an_error() -> None:
    """INTERNAL with the number of responses."""

    def twice(job: Job) -> None:
        job.answer(1, final=False)
        job.answer(2)

    services = services_for(FakeShelf(FakeModel(answer=twice)))

    status, text = await refused(services, "ModelInfer", request_bytes())

    assert (status, "expected a single response, got 2" in text) == (Status.INTERNAL, True)


@pytest.mark.asyncio
async def test_classification_says_that_it_is_not_there() -> None:
    """A parameter that would change the output is never ignored."""
    message = ModelInferRequest.FromString(request_bytes())
    output = message.outputs.add()
    output.name = "OUT"
    output.parameters["classification"].int64_param = 3
    services = services_for(FakeShelf(echo_model()))

    status, text = await refused(services, "ModelInfer", message.SerializeToString())

    assert (status, "classification" in text) == (Status.UNIMPLEMENTED, True)


@pytest.mark.asyncio
async def test_requests_beyond_the_byte_budget_are_refused_with_a_hint() -> None:
    """The first may be larger than the whole budget; a second one has to wait."""
    model = FakeModel()
    services = services_for(FakeShelf(model), ServerOptions(max_inflight_bytes=10))
    first = asyncio.ensure_future(infer(services, request_bytes()))
    while not model.jobs:
        await asyncio.sleep(0)

    with pytest.raises(Refusal) as refusal:
        await infer(services, request_bytes())

    assert refusal.value.answer.status is Status.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in dict(refusal.value.answer.trailing)
    model.jobs[0].answer()
    await first
    assert services.budget.used == 0


@pytest.mark.asyncio
async def test_a_large_typed_request_is_decoded_beside_the_loop() -> None:
    """The answer is the same, and so is what an error says."""
    message = ModelInferRequest(model_name="echo", id="big")
    tensor = message.inputs.add(name="IN", datatype="FP32", shape=[1, 50_000])
    tensor.contents.fp32_contents.extend([1.0] * 50_000)
    services = services_for(FakeShelf(echo_model()))

    reply = await infer(services, message.SerializeToString())

    assert reply.raw_output_contents[0] == b"\x00\x50\x43\x47"
    message.model_name = "nobody"
    text = (await refused(services, "ModelInfer", message.SerializeToString()))[1]
    assert text.startswith("[request id: big] ")


@pytest.mark.asyncio
async def test_headers_that_match_the_pattern_reach_the_model() -> None:
    """Forwarded headers are headers and parameters of the request; others stay outside."""
    model = echo_model()
    options = ServerOptions(grpc_header_forward_pattern="^X-")
    call = FakeCall(metadata={"x-tenant": "a", "authorization": "secret"})

    await infer(services_for(FakeShelf(model), options), request_bytes(), call)

    request = model.jobs[0].request
    assert dict(request.headers) == {"x-tenant": "a"}
    assert request.parameters["x-tenant"] == "a"


@pytest.mark.asyncio
async def test_a_pattern_that_is_none_ends_the_start() -> None:
    """A wrong regular expression is found at the start, not at the first request."""
    with pytest.raises(InvalidArgument, match="not a regular expression"):
        services_for(FakeShelf(), ServerOptions(grpc_header_forward_pattern="("))


@pytest.mark.asyncio
async def test_a_defect_of_the_engine_shows_nothing_of_itself() -> None:
    """An exception that is none of ours is an internal error with a number."""

    def explode(job: Job) -> None:
        raise ValueError("/secret/path")

    services = services_for(FakeShelf(FakeModel(answer=explode)))

    status, text = await refused(services, "ModelInfer", request_bytes())

    assert (status, "secret" in text) == (Status.INTERNAL, False)


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
    assert "statistics" in reply.extensions
    assert not {"classification", "system_shared_memory", "trace"} & set(reply.extensions)


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
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
        "TraceSetting",
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

    assert (await infer(services, request_bytes())).model_name == "echo"


def test_nothing_is_shared_between_answers() -> None:
    """The parameters of a frozen response are not changed by timing."""
    from penstock.timing import with_timing
    from penstock_runtime.request import InferRequest, InferResponse

    response = InferResponse("m", "1", parameters=MappingProxyType({"a": 1}))

    timed = with_timing(InferRequest("m", ()), response)

    assert dict(response.parameters) == {"a": 1}
    assert timed.parameters["a"] == 1
