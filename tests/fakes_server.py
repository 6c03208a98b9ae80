"""Fakes at the seams of the server: a call without a transport, models without threads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import cast

import numpy as np

from penstock.config import ServerOptions
from penstock.services import Services, build_services
from penstock.status import Answer
from penstock.transport.base import Message, Metadata, QuickHandler, Refusal
from penstock_protos.inference import InferParameter, ModelInferRequest, ModelStreamInferResponse
from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, TransactionPolicy
from penstock_runtime.core import InferenceCore
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import NotFound, PenstockError
from penstock_runtime.model import Model
from penstock_runtime.observability.access_log import AccessLog
from penstock_runtime.observability.statistics import ModelStatistics
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.request import InferRequest, InferResponse, Timing
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor


@dataclass
class FakeCall:
    """A call that no transport carries."""

    method: str = "/inference.GRPCInferenceService/ModelInfer"
    peer: str = "ipv4:127.0.0.1:50000"
    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline_ns: int | None = None
    request: InferRequest | None = None
    response: InferResponse | None = None
    trailing: Metadata = ()
    aborted: PenstockError | None = None
    written: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    stuck: bool = False

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self.trailing = metadata

    async def write(self, data: bytes) -> None:
        self.written.put_nowait(data)
        if self.stuck:
            await asyncio.Event().wait()

    async def write_many(self, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self.write(message)

    def abort(self, error: PenstockError) -> None:
        self.aborted = error


@dataclass
class FakeQuickCall(FakeCall):
    """A quick call that no transport carries."""

    on_cancel: Callable[[], None] | None = None
    answer: "asyncio.Future[bytes]" = field(default_factory=asyncio.Future)

    def reply(self, message: Message) -> None:
        self.answer.set_result(message if isinstance(message, bytes) else b"".join(message))

    def refuse(self, answer: Answer) -> None:
        self.answer.set_exception(Refusal(answer))


async def answered_quickly(submit: QuickHandler, data: bytes, call: FakeCall) -> bytes:
    """The reply to a quick call; one that is not waited for any more is cancelled."""
    quick = FakeQuickCall(**{f.name: getattr(call, f.name) for f in fields(call)})
    submit(data, quick)
    try:
        return await asyncio.shield(quick.answer)
    except asyncio.CancelledError:
        if quick.on_cancel is not None:
            quick.on_cancel()
        raise
    finally:
        call.request, call.response = quick.request, quick.response


@dataclass
class Job:
    """A request that a fake model got, and the stream that waits for its answers."""

    request: InferRequest
    stream: ResponseStream

    def answer(self, value: float = 0.0, *, final: bool = True, elements: int = 1) -> bool:
        """Put one response with this value, so many times."""
        return self.stream.put(answer_to(self.request, value, final=final, elements=elements))

    def end(self) -> bool:
        """Put the empty last response of a decoupled request."""
        request = self.request
        return self.stream.put(InferResponse(request.model_name, "1", request.id, empty=True))


class FakeModel:
    """Keeps every request until the test answers it, unless `answer` does so at once."""

    def __init__(
        self,
        name: str = "echo",
        *,
        decoupled: bool = False,
        answer: Callable[[Job], object] | None = None,
    ) -> None:
        self.config = ModelConfig(
            name=name,
            backend="python",
            max_batch_size=8,
            input=(ModelInput("IN", DataType.FP32, (-1,)),),
            output=(ModelOutput("OUT", DataType.FP32, (-1,)),),
            model_transaction_policy=TransactionPolicy(decoupled),
        )
        self.version = 1
        self.decoupled = decoupled
        self.answers_whole = False
        self.healthy = True
        self.jobs: list[Job] = []
        self.statistics = ModelStatistics(name, 1)
        self._answer = answer

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        job = Job(request, stream)
        self.jobs.append(job)
        if self._answer is not None:
            self._answer(job)

    def recall(self, likeness: object) -> None:
        """Nothing is remembered: every request is admitted the careful way."""

    @property
    def unanswered(self) -> int:
        return sum(not job.stream.ended for job in self.jobs)

    def memory_bytes(self) -> Mapping[str, int]:
        return {}

    def drain(self, timeout_s: float) -> bool:
        return True

    def stop(self) -> None:
        return


class FakeShelf:
    """A repository of fake models."""

    def __init__(self, *models: FakeModel) -> None:
        self.by_name = {model.config.name: model for model in models}
        self.loaded: list[tuple[str, LoadOverrides]] = []
        self.unloaded: list[tuple[str, bool]] = []
        self.failing: PenstockError | None = None
        self.made_of: dict[str, tuple[str, ...]] = {}
        self.is_ready = True
        self.callbacks: list[Callable[[], None]] = []

    def get(self, name: str, version: str = "") -> Model:
        model = self.by_name.get(name)
        if model is None or version not in ("", "1"):
            raise NotFound(f"Request for unknown model: '{name}' is not found", scheduled=True)
        return cast(Model, model)

    def models(self) -> Sequence[Model]:
        return [cast(Model, model) for model in self.by_name.values()]

    def load(self, name: str, overrides: LoadOverrides) -> None:
        if self.failing is not None:
            raise self.failing
        self.loaded.append((name, overrides))

    def unload(self, name: str, unload_dependents: bool) -> None:
        self.unloaded.append((name, unload_dependents))

    def parts(self, name: str, config_json: str | None = None) -> Sequence[str]:
        return self.made_of.get(name if config_json is None else config_json, ())

    def index(self, ready_only: bool = False) -> Sequence[ModelIndexEntry]:
        return [ModelIndexEntry(name, "1", ModelState.READY) for name in self.by_name]

    def ready(self) -> bool:
        return self.is_ready

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def stop(self, timeout_s: float) -> None:
        return


def echo_model(name: str = "echo") -> FakeModel:
    """A model that answers at once with the sum of its input."""
    return FakeModel(name, answer=lambda job: job.answer(total(job.request)))


def total(request: InferRequest) -> float:
    """The sum of the first input."""
    return float(np.sum(request.inputs[0].numpy()))


def answer_to(
    request: InferRequest, value: float, *, final: bool = True, elements: int = 1
) -> InferResponse:
    """A response with one FP32[1,elements] output."""
    array = np.full((1, elements), value, np.float32)
    output = Tensor("OUT", DataType.FP32, array.shape, array)
    timing = Timing(1000, 2000, 3000, 4000, 5, "echo_0_0")
    return InferResponse(request.model_name, "1", request.id, (output,), final=final, timing=timing)


def services_for(
    shelf: FakeShelf,
    options: ServerOptions | None = None,
    access: AccessLog | None = None,
) -> Services:
    """The handlers of a server with these models, on the running loop."""
    return build_services(InferenceCore(shelf), options or ServerOptions(), None, access)


def request_bytes(
    model: str = "echo",
    values: Sequence[float] = (1.0, 2.0),
    *,
    request_id: str = "",
    version: str = "",
    parameters: Mapping[str, InferParameter] | None = None,
) -> bytes:
    """A ModelInferRequest with one raw FP32 input."""
    array = np.asarray(values, np.float32).reshape(1, -1)
    message = ModelInferRequest(
        model_name=model,
        model_version=version,
        id=request_id,
        parameters=parameters,
        inputs=[ModelInferRequest.InferInputTensor(name="IN", datatype="FP32", shape=array.shape)],
        raw_input_contents=[array.tobytes()],
    )
    return message.SerializeToString()


class Streaming:
    """A streaming call that runs until the test leaves it; the test reads what it writes."""

    def __init__(self, call: FakeCall, running: Awaitable[None]) -> None:
        self.call = call
        self.task = asyncio.ensure_future(running)

    async def next(self) -> bytes:
        """The next message; StopAsyncIteration at a good end, the handler's error at a bad one."""
        reading = asyncio.ensure_future(self.call.written.get())
        await asyncio.wait((reading, self.task), timeout=5, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done() and self.call.written.empty():
            reading.cancel()
            if not self.task.done():
                raise TimeoutError("no message within 5 s")
            self.task.result()
            raise StopAsyncIteration
        return await reading

    async def rest(self) -> list[bytes]:
        """All messages up to the end."""
        await asyncio.wait_for(asyncio.shield(self.task), 10)
        return [self.call.written.get_nowait() for _ in range(self.call.written.qsize())]

    async def leave(self) -> None:
        """Cancel the call, as a client that goes away does."""
        self.task.cancel()
        await asyncio.wait((self.task,))


class Messages:
    """What the client of a stream sends, fed by the test; counts what was read."""

    def __init__(self, items: Iterable[bytes] = (), *, closed: bool = False) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.read = 0
        for item in items:
            self.send(item)
        if closed:
            self.close()

    def send(self, item: bytes) -> None:
        """One more message."""
        self._queue.put_nowait(item)

    def close(self) -> None:
        """Half-close: no more will come."""
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (item := await self._queue.get()) is not None:
            self.read += 1
            yield item


def stream_reply(data: bytes) -> ModelStreamInferResponse:
    """One message of a stream, parsed."""
    return ModelStreamInferResponse.FromString(data)


def reply_value(reply: ModelStreamInferResponse) -> float:
    """The number in a response of a fake model."""
    return float(np.frombuffer(reply.infer_response.raw_output_contents[0], np.float32)[0])
