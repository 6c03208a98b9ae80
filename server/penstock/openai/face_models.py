"""GET /v1/models: the language models that may be asked."""

import time
from collections.abc import Sequence
from typing import Any

from penstock.auth.caller import permit_of
from penstock.generative.adapters import Adapted
from penstock.generative.catalogue import Catalogue
from penstock.openai.errors import refused
from penstock.openai.paths import ROOTS
from penstock.rest.control import document_reply
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_runtime.errors import NotFound
from penstock_runtime.model import Model

OWNER = "penstock"


class ListFace:
    """Tells which models there are."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._since = int(time.time())

    def routes(self) -> Sequence[Route]:
        """The paths of models."""
        made = []
        for root in ROOTS:
            for path, endpoint in (
                (f"{root}/models", self.all),
                (f"{root}/models/{{model}}", self.one),
            ):
                made.append(Route("GET", path, endpoint, Category.METADATA, refusal=refused))
        return made

    async def all(self, exchange: Exchange) -> Reply:
        """Every language model that the caller may use, and behind them their adapters."""
        permit = permit_of(exchange.call)
        data = [self._told(model) for model in self._catalogue.models(permit)]
        data += [self._adapter(each) for each in self._catalogue.adapted(permit)]
        return document_reply({"object": "list", "data": data})

    async def one(self, exchange: Exchange) -> Reply:
        """One of them."""
        name, permit = exchange.value("model"), permit_of(exchange.call)
        for each in self._catalogue.adapted(permit):
            if each.id == name:
                return document_reply(self._adapter(each))
        permit.check(name)
        for model in self._catalogue.models(permit):
            if model.config.name == name:
                return document_reply(self._told(model))
        raise NotFound(f"there is no language model '{name[:128]}' here")

    def _told(self, model: Model) -> dict[str, Any]:
        name, length = model.config.name, model.config.parameter("max_model_len")
        told = {"id": name, "object": "model", "created": self._since, "owned_by": OWNER}
        told |= {"root": name, "parent": None}
        return told | ({"max_model_len": int(length)} if length.isdecimal() else {})

    def _adapter(self, each: Adapted) -> dict[str, Any]:
        """As vLLM tells of one: where it lies, and whose it is."""
        told = self._told(each.model) | {"id": each.id, "root": each.path}
        return told | {"parent": each.model.config.name}
