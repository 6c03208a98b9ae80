"""One stream carries requests for many models; each gets its answers, in the order promised."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from tests.fakes_server import (
    FakeCall,
    FakeModel,
    FakeShelf,
    Job,
    Messages,
    Streaming,
    echo_model,
    reply_value,
    request_bytes,
    services_for,
    stream_reply,
)

from penstock.config import ServerOptions
from penstock.interceptors import SHUTTING_DOWN
from penstock.services import Services
from penstock.transport.base import Refusal
from penstock_protos.inference import (
    InferParameter,
    ModelInferRequest,
    ModelStreamInferResponse,
)
from penstock_runtime.errors import InvalidArgument, ResourceExhausted, Status, Unavailable
from penstock_runtime.observability.access_log import AccessEntry, AccessLog

EMPTY_FINAL = {"triton_enable_empty_final_response": InferParameter(bool_param=True)}
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass
class Conversation:
    """A stream, as its client sees it."""

    services: Services
    call: FakeCall = field(default_factory=FakeCall)
    messages: Messages = field(default_factory=Messages)

    def __post_init__(self) -> None:
        stream = next(m.stream for m in self.services.methods if m.path == PATH)
        assert stream is not None
        self.running = Streaming(self.call, stream(aiter(self.messages), self.call))

    def send(self, *requests: bytes) -> None:
        for request in requests:
            self.messages.send(request)

    async def next(self) -> ModelStreamInferResponse:
        return stream_reply(await self.running.next())

    async def rest(self) -> list[ModelStreamInferResponse]:
        self.messages.close()
        return [stream_reply(data) for data in await self.running.rest()]

    async def failed(self) -> tuple[Status, str]:
        with pytest.raises(Refusal) as refusal:
            await self.running.next()
        return refusal.value.answer.status, refusal.value.answer.text


async def jobs_of(model: FakeModel, count: int, asking: "asyncio.Future[Any]") -> list[Job]:
    """The first requests that reached a model; `asking` is what drives the stream."""
    while len(model.jobs) < count and not asking.done():
        await asyncio.sleep(0)
    assert len(model.jobs) >= count
    return model.jobs


def ids(replies: list[ModelStreamInferResponse]) -> list[str]:
    return [reply.infer_response.id for reply in replies]


def final(reply: ModelStreamInferResponse) -> bool | None:
    found = reply.infer_response.parameters
    return found["triton_final_response"].bool_param if "triton_final_response" in found else None


def count_to(count: int) -> FakeModel:
    """A decoupled model that answers 0, 1, ... and then says that it is over."""

    def answer(job: Job) -> None:
        for number in range(count):
            job.answer(number, final=False)
        job.end()

    return FakeModel("many", decoupled=True, answer=answer)


@pytest.mark.asyncio
async def test_half_close_finishes_all_that_was_sent() -> None:
    """Every request is answered, then the stream ends well."""
    stream = Conversation(services_for(FakeShelf(echo_model())))
    stream.send(*(request_bytes(request_id=str(n), values=[n]) for n in range(50)))

    replies = await stream.rest()

    assert ids(replies) == [str(n) for n in range(50)]
    assert [reply_value(reply) for reply in replies] == list(range(50))
    assert all(final(reply) is None for reply in replies)


@pytest.mark.asyncio
async def test_ordinary_models_are_answered_in_the_order_asked() -> None:
    """A slow request holds back those after it, whatever model they are for."""
    slow, quick = FakeModel("slow"), echo_model("quick")
    stream = Conversation(services_for(FakeShelf(slow, quick)))
    stream.send(request_bytes("slow", request_id="a"), request_bytes("quick", request_id="b"))
    first = asyncio.ensure_future(stream.next())
    await jobs_of(quick, 1, first)

    (job,) = await jobs_of(slow, 1, first)
    early = first.done()
    job.answer(1)

    assert (early, ids([await first, await stream.next()])) == (False, ["a", "b"])
    assert await stream.rest() == []


@pytest.mark.asyncio
async def test_responses_of_decoupled_requests_interleave() -> None:
    """Each leaves when it comes, and nobody waits for an ordinary request."""
    many, slow = FakeModel("many", decoupled=True), FakeModel("slow")
    stream = Conversation(services_for(FakeShelf(many, slow)))
    stream.send(
        request_bytes("slow", request_id="s"),
        request_bytes("many", request_id="a"),
        request_bytes("many", request_id="b"),
    )
    asking = asyncio.ensure_future(stream.next())
    a, b = await jobs_of(many, 2, asking)

    seen = []
    for job in (a, b, b, a):
        job.answer(0, final=False)
        seen.append((await asking).infer_response.id)
        asking = asyncio.ensure_future(stream.next())
    for job in (a, b, *slow.jobs):
        job.answer(9)
    seen += ids([await asking, await stream.next(), await stream.next()])

    assert seen[:4] == ["a", "b", "b", "a"]
    assert sorted(seen[4:]) == ["a", "b", "s"]
    assert await stream.rest() == []


@pytest.mark.asyncio
async def test_every_decoupled_response_says_whether_it_is_the_last() -> None:
    """Data is not the last here; the empty last message comes only when asked for."""
    services = services_for(FakeShelf(count_to(2)))
    plain, asked = Conversation(services), Conversation(services)
    plain.send(request_bytes("many"))
    asked.send(request_bytes("many", request_id="q", parameters=EMPTY_FINAL))

    quiet, told = await plain.rest(), await asked.rest()

    assert [final(reply) for reply in quiet] == [False, False]
    assert [final(reply) for reply in told] == [False, False, True]
    assert (ids(told), len(told[-1].infer_response.outputs)) == (["q"] * 3, 0)


@pytest.mark.asyncio
async def test_a_decoupled_request_may_end_with_its_last_data_or_without_any() -> None:
    """Final data is marked final and nothing follows it; silence is silence unless asked for."""
    last = FakeModel("last", decoupled=True, answer=lambda job: job.answer(1))
    none = FakeModel("none", decoupled=True, answer=lambda job: job.stream.close())
    stream = Conversation(services_for(FakeShelf(last, none)))
    stream.send(
        request_bytes("last", request_id="a", parameters=EMPTY_FINAL),
        request_bytes("none", request_id="b"),
        request_bytes("none", request_id="c", parameters=EMPTY_FINAL),
    )

    replies = await stream.rest()

    assert sorted((r.infer_response.id, final(r)) for r in replies) == [("a", True), ("c", True)]


@pytest.mark.asyncio
async def test_an_error_is_told_in_the_stream_and_the_stream_goes_on() -> None:
    """The message names the request, its model, and the status as a parameter."""
    stream = Conversation(services_for(FakeShelf(echo_model())))
    stream.send(
        request_bytes("nobody", request_id="bad", version="3"),
        b"\xff\xff",
        request_bytes(request_id="good"),
    )

    bad, broken, good = await stream.rest()

    told = bad.infer_response
    assert bad.error_message.startswith("[request id: bad] Request for unknown model")
    assert (told.id, told.model_name, told.model_version) == ("bad", "nobody", "3")
    assert told.parameters["penstock_status"].string_param == "NOT_FOUND"
    assert broken.error_message
    assert broken.infer_response.id == ""
    assert (good.error_message, good.infer_response.id) == ("", "good")


@pytest.mark.asyncio
async def test_an_error_after_some_responses_is_the_last_of_its_request() -> None:
    """What came before it is delivered first."""

    def answer(job: Job) -> None:
        job.answer(1, final=False)
        job.stream.fail(Unavailable("gone", scheduled=True))

    stream = Conversation(services_for(FakeShelf(FakeModel("many", decoupled=True, answer=answer))))
    stream.send(request_bytes("many", request_id="7"))

    data, error = await stream.rest()

    assert (reply_value(data), error.error_message) == (1.0, "[request id: 7] gone")


@pytest.mark.asyncio
async def test_with_triton_grpc_error_the_first_error_ends_the_stream() -> None:
    """Code and text are those of the unary call."""
    call = FakeCall(metadata={"triton_grpc_error": "true"})
    model = FakeModel(answer=lambda job: job.stream.fail(InvalidArgument("no", scheduled=True)))
    stream = Conversation(services_for(FakeShelf(model)), call)
    stream.send(request_bytes(request_id="7"))

    assert await stream.failed() == (Status.INVALID_ARGUMENT, "[request id: 7] no")


@pytest.mark.asyncio
async def test_of_several_responses_of_an_ordinary_model_the_first_is_delivered() -> None:
    """One request, one answer; the order of the stream is not held up by the rest."""

    def thrice(job: Job) -> None:
        for value in range(3):
            job.answer(value, final=value == 2)

    stream = Conversation(services_for(FakeShelf(FakeModel(answer=thrice))))
    stream.send(request_bytes(request_id="a"), request_bytes(request_id="b"))

    replies = await stream.rest()

    assert [(r.infer_response.id, reply_value(r)) for r in replies] == [("a", 0.0), ("b", 0.0)]


@pytest.mark.asyncio
async def test_an_ordinary_model_that_says_nothing_is_an_error() -> None:
    """Nobody waits for ever."""
    model = FakeModel(answer=lambda job: job.stream.close())
    stream = Conversation(services_for(FakeShelf(model)))
    stream.send(request_bytes())

    (reply,) = await stream.rest()

    assert "expected a single response, got 0" in reply.error_message


@pytest.mark.asyncio
async def test_a_client_who_goes_away_cancels_all_that_is_in_flight() -> None:
    """Every request is told, bytes and calls are counted out, threads that wait are let go."""
    model = FakeModel("many", decoupled=True)
    services = services_for(FakeShelf(model))
    stream = Conversation(services)
    stream.send(*(request_bytes("many") for _ in range(3)))
    asking = asyncio.ensure_future(stream.next())
    jobs = await jobs_of(model, 3, asking)

    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await stream.running.leave()

    assert all(job.stream.cancelled for job in jobs)
    assert not jobs[0].answer(1)
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_reading_stops_at_the_limit_and_goes_on_as_answers_leave() -> None:
    """Requests beyond the limit stay with the client."""
    model = FakeModel()
    stream = Conversation(services_for(FakeShelf(model), ServerOptions(stream_max_inflight=4)))
    stream.send(*(request_bytes(request_id=str(n)) for n in range(10)))
    asking = asyncio.ensure_future(stream.next())
    await jobs_of(model, 4, asking)
    for _ in range(20):
        await asyncio.sleep(0)
    read = stream.messages.read

    replies = []
    for done in range(10):
        jobs = await jobs_of(model, done + 1, asking)
        jobs[done].answer(done)
        replies.append(await asking)
        asking = asyncio.ensure_future(stream.next())
    asking.cancel()

    assert read == 4
    assert ids(replies) == [str(n) for n in range(10)]
    assert stream.messages.read == 10


@pytest.mark.asyncio
async def test_reading_stops_while_too_many_bytes_are_unsent() -> None:
    """A reader slower than the models holds its own requests back, and its producers."""
    options = ServerOptions(stream_max_unsent_bytes=4000)
    model = FakeModel("many", decoupled=True)
    stream = Conversation(services_for(FakeShelf(model), options))
    stream.send(request_bytes("many"))
    asking = asyncio.ensure_future(stream.next())
    (job,) = await jobs_of(model, 1, asking)

    job.answer(1, final=False, elements=1000)
    job.answer(2, final=False, elements=1000)
    full = not job.stream.wait_for_room(0.0)
    await asking
    await stream.next()

    assert full
    assert job.stream.wait_for_room(0.0)
    await stream.running.leave()


@pytest.mark.asyncio
async def test_a_reader_who_takes_nothing_is_given_up() -> None:
    """The call is aborted with RESOURCE_EXHAUSTED; one who waits for answers is not."""
    options = ServerOptions(stream_stall_secs=0.05)
    services = services_for(FakeShelf(count_to(3), FakeModel("slow")), options)
    stalled, patient = Conversation(services), Conversation(services)
    stalled.call.stuck = True
    stalled.send(request_bytes("many"))
    patient.send(request_bytes("slow"))
    waiting = asyncio.ensure_future(patient.next())

    await stalled.next()
    while stalled.call.aborted is None:
        await asyncio.sleep(0.01)

    assert isinstance(stalled.call.aborted, ResourceExhausted)
    assert patient.call.aborted is None
    waiting.cancel()
    await stalled.running.leave()


@pytest.mark.asyncio
async def test_a_draining_server_finishes_what_is_in_flight_and_takes_no_more() -> None:
    """The client learns by a retryable status that the rest was not taken."""
    model = FakeModel()
    services = services_for(FakeShelf(model))
    stream = Conversation(services)
    stream.send(request_bytes(request_id="in"))
    asking = asyncio.ensure_future(stream.next())
    (job,) = await jobs_of(model, 1, asking)

    services.gate.close()
    stream.send(request_bytes(request_id="late"))
    job.answer(1)

    assert (await asking).infer_response.id == "in"
    assert await stream.failed() == (Status.UNAVAILABLE, SHUTTING_DOWN)
    assert (len(model.jobs), services.gate.inflight) == (1, 0)


@pytest.mark.asyncio
async def test_an_idle_stream_does_not_hold_up_a_drain() -> None:
    """A stream without requests ends as soon as the gate closes."""
    services = services_for(FakeShelf(echo_model()))
    stream = Conversation(services)
    asking = asyncio.ensure_future(stream.failed())
    for _ in range(5):
        await asyncio.sleep(0)

    services.gate.close()

    assert (await asking)[0] is Status.UNAVAILABLE


@pytest.mark.asyncio
async def test_large_typed_requests_keep_their_place_in_the_order() -> None:
    """What is decoded in a thread is answered in its turn."""
    message = ModelInferRequest(model_name="echo", id="big")
    tensor = message.inputs.add(name="IN", datatype="FP32", shape=[1, 50_000])
    tensor.contents.fp32_contents.extend([1.0] * 50_000)
    stream = Conversation(services_for(FakeShelf(echo_model())))
    stream.send(message.SerializeToString(), request_bytes(request_id="small"))

    assert ids(await stream.rest()) == ["big", "small"]


@pytest.mark.asyncio
async def test_typed_outputs_and_times_work_as_in_the_unary_call() -> None:
    """Metadata or parameters of a request change how its responses look."""
    call = FakeCall(metadata={"penstock-typed-output": "true"})
    stream = Conversation(services_for(FakeShelf(echo_model())), call)
    stream.send(request_bytes(parameters={"penstock_timing": InferParameter(bool_param=True)}))

    (reply,) = await stream.rest()

    assert list(reply.infer_response.outputs[0].contents.fp32_contents) == [3.0]
    assert reply.infer_response.parameters["penstock_batch_size"].int64_param == 5


@pytest.mark.asyncio
async def test_every_request_of_a_stream_has_its_line_in_the_log() -> None:
    """One line a request, with status, sizes and number of responses."""
    lines: list[AccessEntry] = []
    services = services_for(FakeShelf(count_to(3)), access=AccessLog(lines.append))
    stream = Conversation(services)
    stream.send(request_bytes("many", request_id="a"), request_bytes("nobody", request_id="b"))

    replies = await stream.rest()

    by_id = {line.id: line for line in lines}
    assert (by_id["a"].status, by_id["a"].responses) == ("OK", 3)
    assert by_id["a"].response_bytes == sum(r.ByteSize() for r in replies if not r.error_message)
    assert by_id["b"].status == "NOT_FOUND"


@dataclass
class Batching(FakeCall):
    """A call that keeps what was written at once together."""

    batches: list[list[bytes]] = field(default_factory=list)

    async def write_many(self, messages: Sequence[bytes]) -> None:
        self.batches.append(list(messages))
        await super().write_many(messages)


@pytest.mark.asyncio
async def test_what_is_there_is_written_at_once() -> None:
    """One write for the responses of a request, and one for the answers of many."""
    services = services_for(FakeShelf(count_to(100), echo_model()))
    many, echo = Conversation(services, Batching()), Conversation(services, Batching())
    many.send(request_bytes("many"))
    echo.send(*(request_bytes(request_id=str(n)) for n in range(20)))

    await many.rest()
    await echo.rest()

    assert isinstance(many.call, Batching)
    assert isinstance(echo.call, Batching)
    assert [len(batch) for batch in many.call.batches] == [100]
    assert [len(batch) for batch in echo.call.batches] == [20]


@pytest.mark.asyncio
@pytest.mark.parametrize(("count", "elements", "most"), [(250, 1, 128), (10, 10_000, 2)])
async def test_nobody_talks_for_long_while_others_wait(
    count: int, elements: int, most: int
) -> None:
    """Requests of one stream take turns, which are bounded by messages and by bytes."""
    model = FakeModel("many", decoupled=True)
    stream = Conversation(services_for(FakeShelf(model)))
    stream.send(request_bytes("many", request_id="a"), request_bytes("many", request_id="b"))
    asking = asyncio.ensure_future(stream.next())
    jobs = await jobs_of(model, 2, asking)

    for job in jobs:
        for number in range(count):
            job.answer(number, final=number == count - 1, elements=elements)
    order = ids([await asking, *await stream.rest()])

    turns = [len(list(turn)) for _, turn in groupby(order)]
    assert len(order) == 2 * count
    assert max(turns[:-1]) <= most
    assert turns[0] == turns[1]


@pytest.mark.asyncio
async def test_what_was_said_before_the_error_that_ends_a_stream_is_written() -> None:
    """The status of the call comes after all responses that there were."""

    def answer(job: Job) -> None:
        for number in range(3):
            job.answer(number, final=False)
        job.stream.fail(Unavailable("gone", scheduled=True))

    call = FakeCall(metadata={"triton_grpc_error": "true"})
    model = FakeModel("many", decoupled=True, answer=answer)
    stream = Conversation(services_for(FakeShelf(model)), call)
    stream.send(request_bytes("many"))

    values = [reply_value(await stream.next()) for _ in range(3)]

    assert values == [0.0, 1.0, 2.0]
    assert await stream.failed() == (Status.UNAVAILABLE, "[request id: <id_unknown>] gone")


@dataclass
class Gone(FakeCall):
    """A call whose caller is gone, which its transport notices when it writes."""

    async def write_many(self, messages: Sequence[bytes]) -> None:
        raise ConnectionResetError("gone")


@pytest.mark.asyncio
async def test_a_stream_that_cannot_be_written_ends() -> None:
    """Although its caller neither reads nor says that it is done."""
    model = FakeModel("many", decoupled=True)
    services = services_for(FakeShelf(model))
    stream = Conversation(services, Gone())
    stream.send(request_bytes("many"), request_bytes("many"))
    ending = asyncio.ensure_future(stream.failed())
    jobs = await jobs_of(model, 2, ending)

    jobs[0].answer(1, final=False)

    assert (await ending)[0] is Status.INTERNAL
    assert jobs[1].stream.cancelled
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_a_stream_whose_deadline_has_passed_does_not_end_with_ok() -> None:
    """Whoever notices first, the caller learns DEADLINE_EXCEEDED."""
    model = FakeModel("many", decoupled=True, answer=lambda job: job.end())
    call = FakeCall(deadline_ns=time.monotonic_ns() + 30_000_000)
    stream = Conversation(services_for(FakeShelf(model)), call=call)
    stream.send(request_bytes("many"))
    await asyncio.sleep(0.04)

    stream.messages.close()

    assert (await stream.failed())[0] is Status.DEADLINE_EXCEEDED
