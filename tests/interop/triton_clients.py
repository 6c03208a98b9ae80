"""Triton's own clients, blocking and asyncio: the ones that users bring along."""

import asyncio
import queue
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tests.interop.grpcio_clients import retry_config
from tests.interop.jobs import Job, Outcome, Place
from tests.interop.models import DECOUPLED
from tritonclient.utils import InferenceServerException

from penstock_protos.inference import ModelInferRequest, ModelInferResponse

_CODES = {str(code): code.value[0] for code in grpc.StatusCode}
_FINAL = "triton_final_response"
_UNABLE = {
    "error trailers": "it shows no trailers",
    "unimplemented": "it has methods for what the service has, and no other",
    "health": "it asks Triton's service, not gRPC's",
    "unknown service": "it asks Triton's service, not gRPC's",
    "health watch": "it asks Triton's service, not gRPC's",
}


def _inputs(request: ModelInferRequest, module: Any) -> list[Any]:
    """The request's tensors in the client's own objects, byte for byte."""
    made = []
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        of_module = module.InferInput(tensor.name, list(tensor.shape), tensor.datatype)
        # What set_data_from_numpy sets, without a detour through numpy.
        of_module._raw_content = raw
        made.append(of_module)
    return made


def _request(request: ModelInferRequest, module: Any) -> dict[str, Any]:
    return {
        "model_name": request.model_name,
        "inputs": _inputs(request, module),
        "request_id": request.id,
    }


def _client_options(place: Place, job: Job) -> dict[str, Any]:
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if job.retries:
        arguments.append(("grpc.service_config", retry_config(job.retries)))
    return {
        "url": place.target,
        "channel_args": arguments,
        "ssl": bool(place.authority),
        "root_certificates": place.authority or None,
    }


def _headers(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.metadata.items() if not name.endswith("-bin")}


def _call_options(job: Job, timeout: str) -> dict[str, Any]:
    return {
        timeout: job.timeout_ms / 1000 or None,
        "headers": _headers(job),
        "compression_algorithm": job.compression or None,
    }


def _add(outcome: Outcome, result: Any, error: Any) -> bool:
    """Note a response or an error; whether it ends its request."""
    if error is not None:
        _fail(outcome, error)
        return True
    response = ModelInferResponse.FromString(result.get_response().SerializeToString())
    final = response.parameters[_FINAL].bool_param if _FINAL in response.parameters else False
    if response.outputs or not final:
        outcome.responses.append(response)
    return final or response.model_name != DECOUPLED


def _fail(outcome: Outcome, error: InferenceServerException) -> None:
    if error.status() is None:
        outcome.errors.append(error.message())
    else:
        outcome.code = _CODES[error.status()]
        outcome.message = error.message()


class TritonClient:
    """tritonclient.grpc."""

    name = "tritonclient"
    unable: Mapping[str, str] = _UNABLE

    def missing(self) -> str:
        """It comes with what the tests need."""
        return ""

    def version(self) -> str:
        """The version of the package."""
        return version("tritonclient")

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Do the job with callbacks."""
        with triton.InferenceServerClient(**_client_options(place, job)) as client:
            return [_stream(client, job)] if job.call == "stream" else _infer(client, job)


def _infer(client: Any, job: Job) -> list[Outcome]:
    outcomes = [Outcome() for _ in job.requests]
    done = queue.Queue[None]()

    def note(outcome: Outcome, result: Any, error: Any) -> None:
        _add(outcome, result, error)
        done.put(None)

    for request, outcome in zip(job.requests, outcomes, strict=True):
        client.async_infer(
            **_request(request, triton),
            callback=lambda result, error, outcome=outcome: note(outcome, result, error),
            **_call_options(job, "client_timeout"),
        )
    for _ in outcomes:
        done.get(timeout=30)
    return outcomes


def _stream(client: Any, job: Job) -> Outcome:
    outcome, answers = Outcome(), queue.Queue[tuple[Any, Any]]()
    client.start_stream(
        lambda result, error: answers.put((result, error)), **_call_options(job, "stream_timeout")
    )
    waiting = list(job.requests)

    def send() -> None:
        request = _request(waiting.pop(0), triton)
        client.async_stream_infer(**request, enable_empty_final_response=True)

    for _ in job.requests[:1] if job.ping_pong else job.requests:
        send()
    unanswered = len(job.requests)
    # The server may tell of a deadline in-band before the call ends for the same reason.
    while (unanswered or job.timeout_ms) and not outcome.code:
        ended = _add(outcome, *answers.get(timeout=30))
        unanswered -= ended
        if ended and waiting:
            send()
        if 0 < job.cancel_after == len(outcome.responses):
            client.stop_stream(cancel_requests=True)
    client.stop_stream()
    return outcome


class TritonAioClient(TritonClient):
    """tritonclient.grpc.aio."""

    name = "tritonclient aio"

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Do the job on an event loop of its own."""
        return asyncio.run(self._run(place, job))

    async def _run(self, place: Place, job: Job) -> list[Outcome]:
        async with triton_aio.InferenceServerClient(**_client_options(place, job)) as client:
            if job.call == "stream":
                return [await _aio_stream(client, job)]
            return await asyncio.gather(*(_aio_infer(client, r, job) for r in job.requests))


async def _aio_infer(client: Any, request: ModelInferRequest, job: Job) -> Outcome:
    outcome = Outcome()
    try:
        options = _call_options(job, "client_timeout")
        _add(outcome, await client.infer(**_request(request, triton_aio), **options), None)
    except InferenceServerException as error:
        _fail(outcome, error)
    return outcome


async def _aio_stream(client: Any, job: Job) -> Outcome:
    outcome, answered = Outcome(), asyncio.Queue[None]()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, request in enumerate(job.requests):
            if job.ping_pong and number:
                await answered.get()
            yield _request(request, triton_aio)

    responses = client.stream_infer(requests(), **_call_options(job, "stream_timeout"))
    try:
        async for result, error in responses:
            _add(outcome, result, error)
            answered.put_nowait(None)
            if 0 < job.cancel_after == len(outcome.responses):
                responses.cancel()
    except grpc.RpcError as error:
        # This client passes on what grpcio raises.
        outcome.code = _CODES[str(error.code())]
    except asyncio.CancelledError:
        outcome.code = _CODES["StatusCode.CANCELLED"]
    return outcome
