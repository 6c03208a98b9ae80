"""The clients against a server on the loopback: what is said here of one holds for both."""

import asyncio
import inspect
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tests.server.fake_server import FakeServer, Unary, failing, running

from penstock.client.aio import AsyncClient
from penstock.client.errors import PUSHBACK, InferenceError
from penstock.client.retry import RetryPolicy
from penstock.client.sync import Client
from penstock_protos import health as health_pb
from penstock_protos import inference as pb
from penstock_runtime.datatype import DataType, bf16_to_float32, float32_to_bf16
from penstock_runtime.errors import InvalidArgument, Status
from penstock_runtime.tensor import Tensor


class Driver:
    """Calls a client, and runs what it returns if that is a coroutine."""

    def __init__(self, kind: str, runner: asyncio.Runner, **options: Any) -> None:
        self._runner = runner
        self.client: Client | AsyncClient
        self.slept: list[float] = []
        if kind == "blocking":
            self.client = Client(sleep=self.slept.append, **options)
        else:
            self.client = AsyncClient(sleep=self._note, **options)

    async def _note(self, seconds: float) -> None:
        self.slept.append(seconds)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*args: Any, **options: Any) -> Any:
            return self.run(lambda: method(*args, **options))

        return call

    def run(self, action: Any) -> Any:
        """The result of an action that may be a coroutine."""

        async def inside() -> Any:
            result = action()
            return await result if inspect.isawaitable(result) else result

        return self._runner.run(inside())

    def collect(self, *args: Any, **options: Any) -> list[Any]:
        """Everything that a stream gives."""

        async def inside() -> list[Any]:
            assert isinstance(self.client, AsyncClient)
            async with self.client.stream(*args, **options) as stream:
                return [result async for result in stream]

        if isinstance(self.client, AsyncClient):
            return self._runner.run(inside())
        with self.client.stream(*args, **options) as stream:
            return list(stream)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as started:
        yield started


@pytest.fixture(params=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


@pytest.fixture
def driver(kind: str, runner: asyncio.Runner, server: FakeServer) -> Iterator[Driver]:
    made = Driver(kind, runner, target=server.address, timeout=20.0)
    yield made
    made.close()


class Ended:
    """Set once the server has noticed that the client left."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.wait = self._event.wait


def always(answer: Message) -> Unary:
    """A method that has one answer."""
    data = answer.SerializeToString()
    return lambda *_: data


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    """Whoever knows one client knows the other."""
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            twin = inspect.signature(getattr(AsyncClient, name))
            assert list(twin.parameters) == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(4, dtype=np.int8)[::2],
        np.array([True, False]),
        np.float64(3.5).reshape(()),
        np.zeros((0, 3), np.uint16),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_arrays_come_back_as_they_went(driver: Driver, value: Any) -> None:
    """Datatype, shape and values of an array survive the way there and back."""
    result = driver.infer("echo", {"X": value})

    assert result["X"].dtype == value.dtype
    np.testing.assert_array_equal(result["X"], value)


def test_text_and_bytes_come_back_exactly(driver: Driver) -> None:
    """BYTES elements keep their zero bytes, and text is UTF-8."""
    result = driver.infer("echo", {"T": [["grün"], ["b"]], "B": [b"\0a\0", b""]})

    assert result.tensor("T").shape == (2, 1)
    assert result.texts("T") == ["grün", "b"]
    assert result["B"].tolist() == [b"\0a\0", b""]


def test_bf16_is_sent_as_halves_and_read_as_float32(driver: Driver) -> None:
    """A BF16 tensor is given by its halves and comes back widened."""
    halves = float32_to_bf16(np.array([1.5, -2.0], np.float32))

    result = driver.infer("echo", {"X": Tensor("", DataType.BF16, (2,), halves)})

    assert result.tensor("X").datatype is DataType.BF16
    np.testing.assert_array_equal(result["X"], bf16_to_float32(halves))


def test_a_ragged_sequence_of_text_is_refused_before_it_is_sent(
    driver: Driver, server: FakeServer
) -> None:
    """What cannot be a tensor is an error that names the input."""
    with pytest.raises(InvalidArgument, match="input 'X' mixes text"):
        driver.infer("echo", {"X": [["a", "b"], ["c"]]})

    assert not server.calls


def test_the_result_is_a_mapping_that_knows_its_origin(driver: Driver) -> None:
    """Outputs by name; id, model, version and parameters beside them."""
    result = driver.infer("m", {"X": [1, 2]}, id="r1", parameters={"temperature": 0.5})

    assert list(result) == ["X"]
    assert len(result) == 1
    assert (result.id, result.model_name, result.model_version) == ("r1", "m", "7")
    assert result.parameters["temperature"] == 0.5
    assert result.timing is None


def test_timing_is_read_off_the_parameters(driver: Driver) -> None:
    """What the server says of its phases becomes nanoseconds."""
    told = {"penstock_total_us": 9, "penstock_queue_us": 4, "penstock_batch_size": 3}

    result = driver.infer("m", {"X": [1]}, parameters=told)

    assert result.timing is not None
    assert (result.timing.queue_ns, result.timing.batch_size) == (4000, 3)


def test_every_call_has_a_deadline_unless_told_otherwise(
    driver: Driver, server: FakeServer
) -> None:
    """The default travels with the call, a call's own goes before it, math.inf means none."""
    remaining = []
    for timeout in (None, 5.0, math.inf):
        driver.infer("echo", {"X": [1]}, timeout=timeout)
        remaining.append(server.time_remaining)

    # gRPC rounds a deadline up to its own units.
    assert remaining[0] is not None
    assert remaining[1] is not None
    assert remaining[1] < 6 < remaining[0] < 21
    assert remaining[2] is None or remaining[2] > 1e9


def test_a_large_message_passes(driver: Driver) -> None:
    """gRPC's 4 MB limit does not apply."""
    value = np.zeros(6 << 20, np.uint8)

    result = driver.infer("echo", {"X": value})

    assert result["X"].nbytes == value.nbytes


def test_unavailable_is_sent_again_until_it_works(driver: Driver, server: FakeServer) -> None:
    """Two refusals are waited out as the server asks."""
    server.unary["ModelInfer"] = failing(grpc.StatusCode.UNAVAILABLE, "busy", 2, (PUSHBACK, "30"))

    result = driver.infer("echo", {"X": [1]})

    assert result["X"].tolist() == [1]
    assert server.calls["ModelInfer"] == 3
    assert driver.slept == [0.03, 0.03]


def test_other_errors_are_the_answer_at_once(driver: Driver, server: FakeServer) -> None:
    """A wrong request is not sent again; its status and text are the error's."""
    server.unary["ModelInfer"] = failing(grpc.StatusCode.INVALID_ARGUMENT, "wrong shape")

    with pytest.raises(InferenceError) as raised:
        driver.infer("echo", {"X": [1]})

    assert raised.value.status is Status.INVALID_ARGUMENT
    assert raised.value.message == "wrong shape"
    assert server.calls["ModelInfer"] == 1


def test_attempts_end_where_the_policy_says(
    kind: str, runner: asyncio.Runner, server: FakeServer
) -> None:
    """The last refusal is the answer."""
    driver = Driver(kind, runner, target=server.address, retries=RetryPolicy(attempts=2))
    server.unary["ModelInfer"] = failing(grpc.StatusCode.UNAVAILABLE, "busy")

    with pytest.raises(InferenceError, match="UNAVAILABLE: busy"):
        driver.infer("echo", {"X": [1]})

    assert server.calls["ModelInfer"] == 2
    driver.close()


def test_control_calls_are_never_repeated(driver: Driver, server: FakeServer) -> None:
    """A load may have happened although its answer was lost."""
    server.unary["RepositoryModelLoad"] = failing(grpc.StatusCode.UNAVAILABLE, "polling")

    with pytest.raises(InferenceError, match="polling"):
        driver.load("m")

    assert server.calls["RepositoryModelLoad"] == 1


def test_the_deadline_ends_a_call_that_hangs(driver: Driver, server: FakeServer) -> None:
    """A server that does not answer costs no more than the timeout."""
    ended = Ended()

    def hang(_: bytes, context: Any) -> bytes:
        context.add_callback(ended.set)
        ended.wait(10)
        return b""

    server.unary["ModelInfer"] = hang

    with pytest.raises(InferenceError) as raised:
        driver.infer("echo", {"X": [1]}, timeout=0.05)

    assert raised.value.status is Status.DEADLINE_EXCEEDED


def test_metadata_goes_with_every_call(
    kind: str, runner: asyncio.Runner, server: FakeServer
) -> None:
    """What the client was given is sent, on streams as well."""
    driver = Driver(kind, runner, target=server.address, metadata={"x-tenant": "blue"})

    driver.infer("echo", {"X": [1]})
    unary = server.metadata["x-tenant"]
    driver.collect("echo", {"X": [1]})

    assert (unary, server.metadata["x-tenant"]) == ("blue", "blue")
    driver.close()


def test_an_answer_that_cannot_be_read_is_an_error_of_the_call(
    driver: Driver, server: FakeServer
) -> None:
    """Bytes that are no message do not reach the caller as another exception."""
    server.unary["ModelInfer"] = lambda *_: b"\x0a\xff"

    with pytest.raises(InferenceError, match="ModelInfer cannot be read"):
        driver.infer("echo", {"X": [1]})


def test_nobody_there_is_unavailable(kind: str, runner: asyncio.Runner) -> None:
    """A refused connection is an InferenceError as well."""
    driver = Driver(kind, runner, target="127.0.0.1:1", retries=RetryPolicy(attempts=2))

    with pytest.raises(InferenceError) as raised:
        driver.server_live()

    assert raised.value.status is Status.UNAVAILABLE
    driver.close()


# -- streams ---------------------------------------------------------------------------------------


def test_a_stream_gives_every_answer_but_the_empty_one(driver: Driver) -> None:
    """The message that only ends the stream is not an answer."""
    results = driver.collect("echo", {"X": [4, 2]}, id="s")

    assert [result["X"].tolist() for result in results] == [[4, 2]] * 3
    assert {result.id for result in results} == {"s"}


def test_a_stream_asks_for_true_statuses(driver: Driver, server: FakeServer) -> None:
    """An error ends the stream with its status, so that it can be told apart."""

    def fail(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    server.streams["ModelStreamInfer"] = fail

    with pytest.raises(InferenceError, match="NOT_FOUND: no such model"):
        driver.collect("echo", {"X": [1]})

    assert server.metadata["triton_grpc_error"] == "true"


def test_an_error_message_of_a_stream_is_raised(driver: Driver, server: FakeServer) -> None:
    """Servers that know no true statuses put the error into a message."""
    message = pb.ModelStreamInferResponse(error_message="no such model").SerializeToString()
    server.streams["ModelStreamInfer"] = lambda *_: iter([message])

    with pytest.raises(InferenceError, match="no such model"):
        driver.collect("echo", {"X": [1]})


def endless(ended: Ended) -> Any:
    """A stream that goes on until its client leaves."""

    def handle(messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(ended.set)
        next(messages)
        while context.is_active():
            yield pb.ModelStreamInferResponse().SerializeToString()

    return handle


@pytest.mark.parametrize("way", ["cancel", "leave", "drop"])
def test_a_stream_that_is_left_ends_in_the_server(server: FakeServer, way: str) -> None:
    """Cancel, the end of the with block and dropping the stream all reach the server."""
    ended = Ended()
    server.streams["ModelStreamInfer"] = endless(ended)
    with Client(server.address) as client:
        stream = client.stream("echo", {"X": [1]})
        next(stream)

        if way == "cancel":
            stream.cancel()
            with pytest.raises(InferenceError, match="CANCELLED"):
                next(stream)
        elif way == "leave":
            with stream:
                pass
        del stream

        assert ended.wait(10)


@pytest.mark.parametrize("way", ["cancel", "leave", "drop", "close the client"])
def test_an_async_stream_that_is_left_ends_in_the_server(
    runner: asyncio.Runner, server: FakeServer, way: str
) -> None:
    """The same for asyncio, where grpcio itself would keep an abandoned call for ever."""
    ended = Ended()
    server.streams["ModelStreamInfer"] = endless(ended)

    async def use() -> None:
        client = AsyncClient(server.address)
        stream = client.stream("echo", {"X": [1]})
        await anext(stream)
        if way == "cancel":
            stream.cancel()
            with pytest.raises(InferenceError, match="CANCELLED"):
                await anext(stream)
        elif way == "leave":
            async with stream:
                pass
        elif way == "close the client":
            await client.close()
        del stream
        assert await asyncio.to_thread(ended.wait, 10)
        await client.close()

    runner.run(use())


def test_a_cancelled_task_cancels_its_call(runner: asyncio.Runner, server: FakeServer) -> None:
    """Cancelling the task that waits for an answer ends the request in the server."""
    begun, ended = Ended(), Ended()

    def hang(_: bytes, context: Any) -> bytes:
        context.add_callback(ended.set)
        begun.set()
        ended.wait(10)
        return b""

    server.unary["ModelInfer"] = hang

    async def use() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.infer("echo", {"X": [1]}))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(ended.wait, 10)

    runner.run(use())


# -- server and models -----------------------------------------------------------------------------


def test_yes_and_no_are_booleans(driver: Driver, server: FakeServer) -> None:
    """Liveness and readiness come as they are."""
    server.unary["ServerLive"] = always(pb.ServerLiveResponse(live=True))
    server.unary["ServerReady"] = always(pb.ServerReadyResponse())
    server.unary["ModelReady"] = always(pb.ModelReadyResponse(ready=True))

    assert driver.server_live() is True
    assert driver.server_ready() is False
    assert driver.model_ready("m", "3") is True


def test_metadata_configuration_and_figures_are_messages(
    driver: Driver, server: FakeServer
) -> None:
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
        server.unary[name] = always(answer)

    assert driver.server_metadata().extensions == ["statistics"]
    assert driver.model_metadata("m").versions == ["1"]
    assert driver.model_config("m").max_batch_size == 8
    assert driver.statistics()[0].inference_count == 5
    assert driver.index(ready=True)[0].state == "READY"


def test_load_sends_configuration_and_files(driver: Driver, server: FakeServer) -> None:
    """A mapping becomes JSON, files come under their names, and files alone get a configuration."""
    sent = []

    def load(data: bytes, _: Any) -> bytes:
        sent.append(pb.RepositoryModelLoadRequest.FromString(data))
        return b""

    server.unary["RepositoryModelLoad"] = load

    driver.load("m", {"max_batch_size": 4})
    driver.load("m", files={"1/model.py": b"code"})
    driver.load("m")

    assert json.loads(sent[0].parameters["config"].string_param) == {"max_batch_size": 4}
    assert sent[1].parameters["file:1/model.py"].bytes_param == b"code"
    assert json.loads(sent[1].parameters["config"].string_param) == {}
    assert dict(sent[2].parameters) == {}


def test_unload_may_name_the_dependents(driver: Driver, server: FakeServer) -> None:
    """The flag of the protocol is sent when asked for."""
    sent = []

    def unload(data: bytes, _: Any) -> bytes:
        sent.append(pb.RepositoryModelUnloadRequest.FromString(data))
        return b""

    server.unary["RepositoryModelUnload"] = unload

    driver.unload("m", unload_dependents=True)

    assert sent[0].model_name == "m"
    assert sent[0].parameters["unload_dependents"].bool_param


def test_health_is_a_word(driver: Driver, server: FakeServer) -> None:
    """A known service has its status, an unknown one SERVICE_UNKNOWN."""

    def check(data: bytes, context: Any) -> bytes:
        if health_pb.HealthCheckRequest.FromString(data).service:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb.HealthCheckResponse(
            status=health_pb.HealthCheckResponse.SERVING
        ).SerializeToString()

    server.unary["Check"] = check

    assert driver.health() == "SERVING"
    assert driver.health("model:x") == "SERVICE_UNKNOWN"


def test_wait_ready_waits_until_it_is(driver: Driver, server: FakeServer) -> None:
    """Refusals and a plain no are waited out."""
    answers = iter([False, True])

    def answer(*_: Any) -> bytes:
        return pb.ServerReadyResponse(ready=next(answers)).SerializeToString()

    server.unary["ServerReady"] = failing(grpc.StatusCode.UNAVAILABLE, "starting", 2, then=answer)

    driver.wait_ready()

    assert server.calls["ServerReady"] == 4
    assert len(driver.slept) == 3


def test_wait_ready_ends_with_its_deadline(kind: str, runner: asyncio.Runner) -> None:
    """A server that never comes is DEADLINE_EXCEEDED, and the error says who was waited for."""
    driver = Driver(kind, runner, target="127.0.0.1:1")

    with pytest.raises(InferenceError, match=r"model 'm' at 127\.0\.0\.1:1 was not ready"):
        driver.wait_ready("m", timeout=0.2)

    driver.close()


def test_several_servers_share_the_calls(kind: str, runner: asyncio.Runner) -> None:
    """Calls go round the servers, and one that dies is not noticed."""
    with running() as first, running() as second:
        driver = Driver(kind, runner, target=[first.address, second.address])
        while not (first.calls["ModelInfer"] and second.calls["ModelInfer"]):
            driver.infer("echo", {"X": [1]})

        first.stop()
        results = [driver.infer("echo", {"X": [number]}) for number in range(10)]

        assert [result["X"].tolist() for result in results] == [[number] for number in range(10)]
        driver.close()


def test_a_server_that_is_not_serving_gets_no_calls(kind: str, runner: asyncio.Runner) -> None:
    """Among several servers only those are asked whose health says SERVING."""
    with running() as draining, running() as healthy:
        draining.health = health_pb.HealthCheckResponse.NOT_SERVING
        driver = Driver(kind, runner, target=[draining.address, healthy.address])

        for _ in range(20):
            driver.infer("echo", {"X": [1]})

        assert (draining.calls["ModelInfer"], healthy.calls["ModelInfer"]) == (0, 20)
        driver.close()
