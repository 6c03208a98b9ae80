"""ModelInfer, answered as clients of Triton expect it, without a transport: as a coroutine and as a
quick call, which differ in nothing that a caller can see.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeModel,
    FakeShelf,
    Job,
    answered_quickly,
    echo_model,
    request_bytes,
    services_for,
)

from penstock.config import ServerOptions
from penstock.services import Services
from penstock.transport.base import Refusal
from penstock_protos.inference import InferParameter, ModelInferRequest, ModelInferResponse
from penstock_runtime.errors import InvalidArgument, Status

PATH = "/inference.GRPCInferenceService/ModelInfer"
TRUE = InferParameter(bool_param=True)
Infer = Callable[..., Awaitable[ModelInferResponse]]


@pytest.fixture(params=["coroutine", "quick call"])
def way(request: pytest.FixtureRequest) -> str:
    """How the handler is called."""
    return str(request.param)


@pytest.fixture
def infer(way: str) -> Infer:
    """ModelInfer, parsed."""

    async def call_it(
        services: Services, data: bytes, call: FakeCall | None = None
    ) -> ModelInferResponse:
        method = next(m for m in services.methods if m.path == PATH)
        call = call or FakeCall()
        if way == "quick call":
            assert method.submit is not None
            reply = await answered_quickly(method.submit, data, call)
        else:
            assert method.unary is not None
            reply = await method.unary(data, call)
        return ModelInferResponse.FromString(reply)

    return call_it


async def refused(infer: Infer, services: Services, data: bytes) -> tuple[Status, str]:
    """How a call that fails ends."""
    with pytest.raises(Refusal) as refusal:
        await infer(services, data)
    return refusal.value.answer.status, refusal.value.answer.text


@pytest.mark.asyncio
async def test_the_answer_bears_the_requests_id_and_the_version_that_ran(infer: Infer) -> None:
    """id and model come back, outputs are raw."""
    reply = await infer(services_for(FakeShelf(echo_model())), request_bytes(request_id="x7"))

    assert (reply.model_name, reply.model_version, reply.id) == ("echo", "1", "x7")
    assert reply.raw_output_contents[0] == b"\x00\x00\x40\x40"


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["metadata", "parameter"])
async def test_typed_outputs_are_there_for_those_who_ask(infer: Infer, by: str) -> None:
    """A metadata key or a request parameter switches to typed contents."""
    services = services_for(FakeShelf(echo_model()))
    call = FakeCall(metadata={"penstock-typed-output": "true"} if by == "metadata" else {})
    parameters = {"penstock_typed_output": TRUE} if by == "parameter" else None

    reply = await infer(services, request_bytes(parameters=parameters), call)

    assert list(reply.outputs[0].contents.fp32_contents) == [3.0]
    assert not reply.raw_output_contents


@pytest.mark.asyncio
async def test_times_are_told_on_request_only(infer: Infer) -> None:
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
async def test_the_calls_deadline_is_the_requests(infer: Infer) -> None:
    """What gRPC knows of the caller's patience reaches the queue."""
    model = echo_model()
    deadline = time.monotonic_ns() + 10**9

    await infer(services_for(FakeShelf(model)), request_bytes(), FakeCall(deadline_ns=deadline))

    assert model.jobs[0].request.deadline_ns == deadline


@pytest.mark.asyncio
async def test_a_caller_who_goes_away_cancels_the_request(infer: Infer) -> None:
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
async def test_errors_of_the_engine_name_the_request_and_others_do_not(infer: Infer) -> None:
    """The prefix is that of Triton."""
    model = FakeModel(answer=lambda job: job.stream.fail(InvalidArgument("no", scheduled=True)))
    services = services_for(FakeShelf(model))

    assert (await refused(infer, services, request_bytes(request_id="7")))[1] == (
        "[request id: 7] no"
    )
    assert (await refused(infer, services, request_bytes()))[1] == ("[request id: <id_unknown>] no")
    status, text = await refused(infer, services, b"\xff\xff")
    assert (status, text.startswith("[request id")) == (Status.INVALID_ARGUMENT, False)


@pytest.mark.asyncio
async def test_a_decoupled_model_needs_a_stream(infer: Infer) -> None:
    """UNIMPLEMENTED, and the model never sees the request."""
    model = FakeModel("many", decoupled=True)

    answer = await refused(infer, services_for(FakeShelf(model)), request_bytes("many"))

    assert answer == (
        Status.UNIMPLEMENTED,
        "ModelInfer RPC doesn't support models with decoupled transaction policy",
    )
    assert not model.jobs


@pytest.mark.asyncio
async def test_several_responses_to_a_unary_call_are_an_error(infer: Infer) -> None:
    """INTERNAL with the number of responses."""

    def twice(job: Job) -> None:
        job.answer(1, final=False)
        job.answer(2)

    services = services_for(FakeShelf(FakeModel(answer=twice)))

    status, text = await refused(infer, services, request_bytes())

    assert (status, "expected a single response, got 2" in text) == (Status.INTERNAL, True)


@pytest.mark.asyncio
async def test_requests_beyond_the_byte_budget_are_refused_with_a_hint(infer: Infer) -> None:
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
async def test_a_large_typed_request_is_decoded_beside_the_loop(infer: Infer) -> None:
    """The answer is the same, and so is what an error says."""
    message = ModelInferRequest(model_name="echo", id="big")
    tensor = message.inputs.add(name="IN", datatype="FP32", shape=[1, 50_000])
    tensor.contents.fp32_contents.extend([1.0] * 50_000)
    services = services_for(FakeShelf(echo_model()))

    reply = await infer(services, message.SerializeToString())

    assert reply.raw_output_contents[0] == b"\x00\x50\x43\x47"
    message.model_name = "nobody"
    text = (await refused(infer, services, message.SerializeToString()))[1]
    assert text.startswith("[request id: big] ")


@pytest.mark.asyncio
async def test_headers_that_match_the_pattern_reach_the_model(infer: Infer) -> None:
    """Forwarded headers are headers and parameters of the request; others stay outside."""
    model = echo_model()
    options = ServerOptions(grpc_header_forward_pattern="^X-")
    call = FakeCall(metadata={"x-tenant": "a", "authorization": "secret"})

    await infer(services_for(FakeShelf(model), options), request_bytes(), call)

    request = model.jobs[0].request
    assert dict(request.headers) == {"x-tenant": "a"}
    assert request.parameters["x-tenant"] == "a"


@pytest.mark.asyncio
async def test_a_pattern_that_is_none_ends_the_start(infer: Infer) -> None:
    """A wrong regular expression is found at the start, not at the first request."""
    with pytest.raises(InvalidArgument, match="not a regular expression"):
        services_for(FakeShelf(), ServerOptions(grpc_header_forward_pattern="("))


@pytest.mark.asyncio
async def test_a_defect_of_the_engine_shows_nothing_of_itself(infer: Infer) -> None:
    """An exception that is none of ours is an internal error with a number."""

    def explode(job: Job) -> None:
        raise ValueError("/secret/path")

    services = services_for(FakeShelf(FakeModel(answer=explode)))

    status, text = await refused(infer, services, request_bytes())

    assert (status, "secret" in text) == (Status.INTERNAL, False)
