"""Health and metadata over HTTP: of the server, and of its models."""

from collections.abc import Sequence
from typing import Any

from penstock.rest.control import Control, document_reply
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.messages_json import as_document
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_protos import inference

NOT_READY = 503
MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


class HealthFace:
    """Answers whoever only looks."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Sequence[Route]:
        """The paths of health and metadata."""
        health, metadata = Category.HEALTH, Category.METADATA
        return (
            Route("GET", "/v2/health/live", self.live, health, ungated=True),
            Route("GET", "/v2/health/ready", self.ready, health, ungated=True),
            Route("GET", "/health", self.live, health, ungated=True),
            Route("GET", "/v2", self.server, metadata),
            *(Route("GET", f"{m}/ready", self.model_ready, health, ungated=True) for m in MODEL),
            *(Route("GET", path, self.model, metadata) for path in MODEL),
        )

    async def live(self, exchange: Exchange) -> Reply:
        """Whether the process is alive at all."""
        request, kind = inference.ServerLiveRequest(), inference.ServerLiveResponse
        answer = await self._control.ask("ServerLive", request, kind, exchange)
        return document_reply({"live": answer.live}, 200 if answer.live else NOT_READY)

    async def ready(self, exchange: Exchange) -> Reply:
        """Whether traffic may be sent here."""
        request, kind = inference.ServerReadyRequest(), inference.ServerReadyResponse
        answer = await self._control.ask("ServerReady", request, kind, exchange)
        return document_reply({"ready": answer.ready}, 200 if answer.ready else NOT_READY)

    async def model_ready(self, exchange: Exchange) -> Reply:
        """Whether a model serves."""
        name = exchange.value("model")
        request = inference.ModelReadyRequest(name=name, version=exchange.value("version"))
        kind = inference.ModelReadyResponse
        answer = await self._control.ask("ModelReady", request, kind, exchange)
        document = {"name": name, "ready": answer.ready}
        return document_reply(document, 200 if answer.ready else NOT_READY)

    async def server(self, exchange: Exchange) -> Reply:
        """Name, version, extensions."""
        request, kind = inference.ServerMetadataRequest(), inference.ServerMetadataResponse
        answer = await self._control.ask("ServerMetadata", request, kind, exchange)
        return document_reply(as_document(answer))

    async def model(self, exchange: Exchange) -> Reply:
        """Inputs, outputs and ready versions of a model."""
        request = inference.ModelMetadataRequest(
            name=exchange.value("model"), version=exchange.value("version")
        )
        kind = inference.ModelMetadataResponse
        answer = await self._control.ask("ModelMetadata", request, kind, exchange)
        return document_reply(without_empty(as_document(answer)))


def without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a model without the objects in it that hold nothing, as Triton has it."""
    kept = {name: value for name, value in document.items() if value != {}}
    for name in ("inputs", "outputs"):
        kept[name] = [{k: v for k, v in t.items() if v != {}} for t in document[name]]
    return kept
