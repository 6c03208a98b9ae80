"""grpclib, gRPC in pure Python on the h2 library: reads a Job on standard input, writes Outcomes.

It runs as a program, since its packages are no part of what the tests need.
"""

import asyncio
import base64
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpclib
import grpclib.client
from google.protobuf import json_format
from grpclib.exceptions import GRPCError, StreamTerminatedError

from penstock_protos.health import HealthCheckRequest, HealthCheckResponse
from penstock_protos.inference import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

SERVICE = "/inference.GRPCInferenceService/"
HEALTH = "/grpc.health.v1.Health/"


def new_outcome() -> dict[str, Any]:
    """An outcome as JSON has it."""
    return {"code": 0, "message": "", "responses": [], "errors": []}


def add(outcome: dict[str, Any], response: Any) -> None:
    """Note a response of whatever type."""
    if isinstance(response, HealthCheckResponse):
        outcome["health"] = HealthCheckResponse.ServingStatus.Name(response.status)
    elif isinstance(response, ModelInferResponse):
        outcome["responses"].append(json_format.MessageToDict(response))
    elif response.error_message:
        outcome["errors"].append(response.error_message)
    else:
        add(outcome, response.infer_response)


class Calls:
    """One job on one channel."""

    def __init__(self, job: dict[str, Any], channel: grpclib.client.Channel) -> None:
        self.job = job
        self.channel = channel
        self.requests = [
            json_format.ParseDict(r, ModelInferRequest()) for r in job["requests"]
        ] or [ModelInferRequest()]

    @asynccontextmanager
    async def _call(self, method: Any, outcome: dict[str, Any]) -> AsyncIterator[Any]:
        metadata = {
            name: base64.b64decode(value) if name.endswith("-bin") else value
            for name, value in self.job["metadata"].items()
        }
        timeout = self.job["timeoutMs"] / 1000 or None
        try:
            async with method.open(timeout=timeout, metadata=metadata) as stream:
                yield stream
        except GRPCError as error:
            outcome["code"], outcome["message"] = error.status.value, error.message or ""
        except TimeoutError:
            outcome["code"] = grpclib.Status.DEADLINE_EXCEEDED.value
        except StreamTerminatedError:
            outcome["code"] = grpclib.Status.CANCELLED.value

    async def unary(self, path: str, message: Any, response: type) -> dict[str, Any]:
        """One message there, one back."""
        method = grpclib.client.UnaryUnaryMethod(self.channel, path, type(message), response)
        outcome = new_outcome()
        async with self._call(method, outcome) as stream:
            await stream.send_message(message, end=True)
            add(outcome, await stream.recv_message())
            await stream.recv_trailing_metadata()
        return outcome

    async def stream(self) -> dict[str, Any]:
        """All requests on one stream."""
        method = grpclib.client.StreamStreamMethod(
            self.channel, SERVICE + "ModelStreamInfer", ModelInferRequest, ModelStreamInferResponse
        )
        outcome = new_outcome()
        async with self._call(method, outcome) as stream:
            await stream.send_request()
            sending = asyncio.create_task(self._send(stream, outcome))
            async for response in stream:
                add(outcome, response)
                if 0 < self.job["cancelAfter"] == len(outcome["responses"]):
                    await stream.cancel()
                    outcome["code"] = grpclib.Status.CANCELLED.value
                    break
            sending.cancel()
        return outcome

    async def _send(self, stream: Any, outcome: dict[str, Any]) -> None:
        for number, request in enumerate(self.requests):
            while self.job["pingPong"] and len(outcome["responses"]) < number:
                await asyncio.sleep(0.001)
            await stream.send_message(request)
        if not self.job["cancelAfter"]:
            await stream.end()

    async def watch(self) -> dict[str, Any]:
        """The first message of a watch."""
        method = grpclib.client.UnaryStreamMethod(
            self.channel, HEALTH + "Watch", HealthCheckRequest, HealthCheckResponse
        )
        outcome = new_outcome()
        async with self._call(method, outcome) as stream:
            await stream.send_message(HealthCheckRequest(service=self.job["service"]), end=True)
            add(outcome, await stream.recv_message())
            await stream.cancel()
        return outcome

    async def run(self) -> list[dict[str, Any]]:
        """Do what the job says."""
        call = self.job["call"]
        if call == "stream":
            return [await self.stream()]
        if call == "watch":
            return [await self.watch()]
        if call == "health":
            message = HealthCheckRequest(service=self.job["service"])
            return [await self.unary(HEALTH + "Check", message, HealthCheckResponse)]
        path = SERVICE + ("ModelInfer" if call == "infer" else "Nonsense")
        calls = (self.unary(path, request, ModelInferResponse) for request in self.requests)
        return await asyncio.gather(*calls)


async def main() -> None:
    """Read, do, write."""
    job = json.load(sys.stdin)
    host, _, port = job["target"].rpartition(":")
    secure = None
    if job["authority"]:
        secure = ssl.create_default_context(cafile=job["authority"])
        secure.set_alpn_protocols(["h2"])
    async with grpclib.client.Channel(host, int(port), ssl=secure) as channel:
        json.dump({"outcomes": await Calls(job, channel).run()}, sys.stdout)


if len(sys.argv) > 1:
    print(grpclib.__version__)
else:
    asyncio.run(main())
