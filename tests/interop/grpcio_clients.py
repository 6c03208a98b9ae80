"""grpcio's two clients, through raw channels: its core is the one of gRPC for C++, Ruby and PHP."""

import asyncio
import base64
import contextlib
import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tests.interop.jobs import Job, Outcome, Place, trailers_of

from penstock_protos.health import HealthCheckRequest, HealthCheckResponse
from penstock_protos.inference import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"
_COMPRESSIONS = {
    "": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def channel_options(job: Job) -> list[tuple[str, Any]]:
    """No limits, and the retries that the job asks for."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Or all channels of this process would share one connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if job.retries:
        options.append(("grpc.service_config", retry_config(job.retries)))
    return options


def retry_config(retries: int) -> str:
    """A service config whose back-off is useless: only what the server says makes it quick."""
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "100s",
        "maxBackoff": "100s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    name = {"service": "inference.GRPCInferenceService"}
    return json.dumps({"methodConfig": [{"name": [name], "retryPolicy": policy}]})


def metadata_of(job: Job) -> list[tuple[str, str | bytes]]:
    """The metadata of a call in grpcio's form."""
    return [
        (name, base64.b64decode(value) if name.endswith("-bin") else value)
        for name, value in job.metadata.items()
    ]


def _call_options(job: Job) -> dict[str, Any]:
    return {
        "metadata": metadata_of(job),
        "timeout": job.timeout_ms / 1000 or None,
        "compression": _COMPRESSIONS[job.compression],
    }


def _credentials(place: Place) -> Any:
    return grpc.ssl_channel_credentials(Path(place.authority).read_bytes())


def _methods(channel: Any) -> dict[str, Any]:
    """What can be called, for both kinds of channel."""
    request, health = ModelInferRequest.SerializeToString, HealthCheckRequest.SerializeToString
    response = ModelInferResponse.FromString
    status = HealthCheckResponse.FromString
    return {
        "infer": channel.unary_unary(SERVICE + "ModelInfer", request, response),
        "unknown": channel.unary_unary(SERVICE + "Nonsense", request, response),
        "stream": channel.stream_stream(
            SERVICE + "ModelStreamInfer", request, ModelStreamInferResponse.FromString
        ),
        "health": channel.unary_unary(HEALTH + "Check", health, status),
        "watch": channel.unary_stream(HEALTH + "Watch", health, status),
    }


def add_response(outcome: Outcome, response: Any) -> None:
    """Note what came, of whatever type."""
    if isinstance(response, HealthCheckResponse):
        outcome.health = HealthCheckResponse.ServingStatus.Name(response.status)
    elif isinstance(response, ModelInferResponse):
        outcome.responses.append(response)
    elif response.error_message:
        outcome.errors.append(response.error_message)
    else:
        outcome.responses.append(response.infer_response)


def first_messages(job: Job) -> list[Any]:
    """One message per call that the job makes."""
    if job.call in ("health", "watch"):
        return [HealthCheckRequest(service=job.service)]
    return list(job.requests) or [ModelInferRequest()]


class GrpcioClient:
    """The blocking client."""

    name = "grpcio"
    unable: Mapping[str, str] = {}

    def missing(self) -> str:
        """It is one of the server's own dependencies."""
        return ""

    def version(self) -> str:
        """The version of the package."""
        return str(grpc.__version__)

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Do the job; calls of several requests go on at the same time, one thread each."""
        with self._channel(place, job) as channel:
            method = _methods(channel)[job.call]
            if job.call == "stream":
                return [_stream(method, job)]
            if job.call == "watch":
                return [_watch(method, job)]
            messages = first_messages(job)
            with ThreadPoolExecutor(len(messages)) as pool:
                return list(pool.map(lambda message: _unary(method, message, job), messages))

    def _channel(self, place: Place, job: Job) -> Any:
        options = channel_options(job)
        if place.authority:
            return grpc.secure_channel(place.target, _credentials(place), options)
        return grpc.insecure_channel(place.target, options)


def _ended(outcome: Outcome, call: Any) -> Outcome:
    outcome.code = call.code().value[0]
    outcome.message = call.details() or ""
    outcome.trailers = trailers_of(call.trailing_metadata())
    return outcome


def _unary(method: Any, message: Any, job: Job) -> Outcome:
    outcome = Outcome()
    try:
        response, call = method.with_call(message, **_call_options(job))
    except grpc.RpcError as error:
        return _ended(outcome, error)
    add_response(outcome, response)
    return _ended(outcome, call)


def _stream(method: Any, job: Job) -> Outcome:
    outcome, answered = Outcome(), queue.Queue[None]()
    done = threading.Event()

    def requests() -> Iterator[ModelInferRequest]:
        for number, message in enumerate(job.requests):
            if job.ping_pong and number:
                answered.get(timeout=30)
            yield message
        if job.cancel_after:
            done.wait(30)

    call = method(requests(), **_call_options(job))
    try:
        for response in call:
            add_response(outcome, response)
            answered.put(None)
            if 0 < job.cancel_after == len(outcome.responses):
                call.cancel()
    except grpc.RpcError:
        pass
    done.set()
    return _ended(outcome, call)


def _watch(method: Any, job: Job) -> Outcome:
    outcome = Outcome()
    call = method(first_messages(job)[0], **_call_options(job))
    add_response(outcome, next(call))
    call.cancel()
    return _ended(outcome, call)


class GrpcioAioClient(GrpcioClient):
    """The asyncio client."""

    name = "grpcio aio"

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Do the job on an event loop of its own."""
        return asyncio.run(self._run(place, job))

    async def _run(self, place: Place, job: Job) -> list[Outcome]:
        async with self._aio_channel(place, job) as channel:
            method = _methods(channel)[job.call]
            if job.call == "stream":
                return [await _aio_stream(method, job)]
            if job.call == "watch":
                return [await _aio_watch(method, job)]
            messages = first_messages(job)
            return await asyncio.gather(*(_aio_unary(method, m, job) for m in messages))

    def _aio_channel(self, place: Place, job: Job) -> Any:
        options = channel_options(job)
        if place.authority:
            return grpc.aio.secure_channel(place.target, _credentials(place), options)
        return grpc.aio.insecure_channel(place.target, options)


async def _aio_ended(outcome: Outcome, call: Any) -> Outcome:
    outcome.code = (await call.code()).value[0]
    outcome.message = await call.details() or ""
    outcome.trailers = trailers_of(await call.trailing_metadata())
    return outcome


async def _aio_unary(method: Any, message: Any, job: Job) -> Outcome:
    outcome = Outcome()
    call = method(message, **_call_options(job))
    with contextlib.suppress(grpc.RpcError):
        add_response(outcome, await call)
    return await _aio_ended(outcome, call)


async def _aio_stream(method: Any, job: Job) -> Outcome:
    outcome, answered = Outcome(), asyncio.Queue[None]()

    async def requests() -> AsyncIterator[ModelInferRequest]:
        for number, message in enumerate(job.requests):
            if job.ping_pong and number:
                await answered.get()
            yield message

    call = method(requests(), **_call_options(job))
    try:
        async for response in call:
            add_response(outcome, response)
            answered.put_nowait(None)
            if 0 < job.cancel_after == len(outcome.responses):
                call.cancel()
    except (grpc.RpcError, asyncio.CancelledError):
        pass
    return await _aio_ended(outcome, call)


async def _aio_watch(method: Any, job: Job) -> Outcome:
    outcome = Outcome()
    call = method(first_messages(job)[0], **_call_options(job))
    add_response(outcome, await call.read())
    call.cancel()
    return await _aio_ended(outcome, call)
