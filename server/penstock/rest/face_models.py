"""Configuration, statistics and the repository over HTTP: Triton's extensions of the protocol."""

from collections.abc import Sequence
from typing import Any

from penstock.codec.wire import shown
from penstock.rest.control import Control, base64_of, document_reply, flag_of, parameters_of
from penstock.rest.documents import kind_of
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.face_health import MODEL
from penstock.rest.messages_json import as_document
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_protos import inference
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.overrides import FILE_PREFIX

Parameter = inference.ModelRepositoryParameter


class ModelsFace:
    """Answers what is asked about models, and changes which ones are served."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Sequence[Route]:
        """The paths of configuration, statistics and repository."""
        repository, stats = Category.MODEL_REPOSITORY, Category.STATISTICS
        made = [
            Route("GET", "/v2/models/stats", self.statistics, stats),
            *(Route("GET", f"{m}/stats", self.statistics, stats) for m in MODEL),
            *(Route("GET", f"{m}/config", self.config, Category.MODEL_CONFIG) for m in MODEL),
        ]
        for root in ("/v2/repository", "/v2/repository/{repository}"):
            made += [
                Route("POST", f"{root}/index", self.index, repository),
                Route("POST", f"{root}/models/{{model}}/load", self.load, repository),
                Route("POST", f"{root}/models/{{model}}/unload", self.unload, repository),
            ]
        return made

    async def config(self, exchange: Exchange) -> Reply:
        """The configuration that a model runs with."""
        request = inference.ModelConfigRequest(
            name=exchange.value("model"), version=exchange.value("version")
        )
        kind = inference.ModelConfigResponse
        answer = await self._control.ask("ModelConfig", request, kind, exchange)
        return document_reply(as_document(answer.config))

    async def statistics(self, exchange: Exchange) -> Reply:
        """Counts and times of one model, or of all."""
        request = inference.ModelStatisticsRequest(
            name=exchange.value("model"), version=exchange.value("version")
        )
        kind = inference.ModelStatisticsResponse
        answer = await self._control.ask("ModelStatistics", request, kind, exchange)
        return document_reply(as_document(answer))

    async def index(self, exchange: Exchange) -> Reply:
        """Every model and the state it is in."""
        document = await self._control.document(exchange)
        request = inference.RepositoryIndexRequest(
            repository_name=exchange.value("repository"), ready=flag_of(document, "ready")
        )
        kind = inference.RepositoryIndexResponse
        answer = await self._control.ask("RepositoryIndex", request, kind, exchange)
        entries = [as_document(model) for model in answer.models]
        # What says nothing is left out, as Triton does.
        return document_reply([{k: v for k, v in e.items() if v or k == "name"} for e in entries])

    async def load(self, exchange: Exchange) -> Reply:
        """Load or reload a model; answers once it serves."""
        parameters = parameters_of(await self._control.document(exchange))
        request = inference.RepositoryModelLoadRequest(
            repository_name=exchange.value("repository"),
            model_name=exchange.value("model"),
            parameters={key: _parameter(key, value) for key, value in parameters.items()},
        )
        kind = inference.RepositoryModelLoadResponse
        answer = await self._control.ask("RepositoryModelLoad", request, kind, exchange)
        return document_reply({"name": answer.model_name, "load": answer.isLoaded})

    async def unload(self, exchange: Exchange) -> Reply:
        """Take a model out of service; answers once no new request reaches it."""
        parameters = parameters_of(await self._control.document(exchange))
        request = inference.RepositoryModelUnloadRequest(
            repository_name=exchange.value("repository"),
            model_name=exchange.value("model"),
            parameters={key: _parameter(key, value) for key, value in parameters.items()},
        )
        kind = inference.RepositoryModelUnloadResponse
        answer = await self._control.ask("RepositoryModelUnload", request, kind, exchange)
        return document_reply({"name": answer.model_name, "unload": answer.isUnloaded})


def _parameter(key: str, value: Any) -> Parameter:
    """A parameter of a load or an unload; a file travels as base64."""
    if key.startswith(FILE_PREFIX):
        return Parameter(bytes_param=base64_of(value, key))
    if isinstance(value, bool):
        return Parameter(bool_param=value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return Parameter(int64_param=value)
    if isinstance(value, str):
        return Parameter(string_param=value)
    raise InvalidArgument(
        f"parameter '{shown(key)}' is {kind_of(value)}, expected a boolean, an integer of 64 bits"
        " or a string"
    )
