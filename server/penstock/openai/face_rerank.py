"""POST /v1/rerank and /v1/score: how well documents suit a query."""

from collections.abc import Sequence
from typing import Any

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue, Task
from penstock.generative.fields import Fields
from penstock.generative.question import bare_request
from penstock.openai.errors import refused
from penstock.openai.face_embeddings import MOST_INPUTS, input_usage
from penstock.openai.identity import identify
from penstock.openai.paths import ROOTS
from penstock.rest.documents import write_document
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Endpoint, Route
from penstock.rpc import Category
from penstock_runtime.errors import Internal
from penstock_runtime.model import Model
from penstock_runtime.request import InferResponse

_OUTPUTS = ("score", "num_input_tokens")


class RerankFace:
    """Answers with scores. Each pair of texts is a request of its own."""

    def __init__(self, asker: Asker, catalogue: Catalogue) -> None:
        self._asker = asker
        self._catalogue = catalogue

    def routes(self) -> Sequence[Route]:
        """The paths of scores; clients of Cohere look for theirs below /v1 and /v2."""
        paths: list[tuple[str, Endpoint]] = [("/rerank", self.rerank), ("/v2/rerank", self.rerank)]
        paths.append(("/score", self.score))
        for root in ROOTS:
            paths += [(f"{root}/rerank", self.rerank), (f"{root}/score", self.score)]
        category = Category.INFERENCE
        return [Route("POST", path, end, category, refusal=refused) for path, end in paths]

    async def rerank(self, exchange: Exchange) -> Reply:
        """The documents, the best first."""
        fields, model, asked = await self._asked(exchange)
        query, documents = fields.text("query"), _documents(fields)
        if not query:
            fields.refuse("query", "is not given, expected a text")
        most = fields.whole("top_n", 0, MOST_INPUTS) or len(documents)
        shown = fields.flag("return_documents", default=True)
        responses = await self._scored(exchange, model, [(query, text) for text in documents])
        scores = [_score(response) for response in responses]
        best = sorted(range(len(scores)), key=lambda number: -scores[number])[:most]
        results: list[dict[str, Any]] = [
            {"index": number, "relevance_score": scores[number]} for number in best
        ]
        for result in results if shown else ():
            result["document"] = {"text": documents[result["index"]]}
        identity = identify("rerank-", asked, model)
        told = {"id": identity.id, "model": identity.model, "results": results}
        return _reply(exchange, told | {"usage": input_usage(responses)})

    async def score(self, exchange: Exchange) -> Reply:
        """A score for each pair, in their order."""
        fields, model, asked = await self._asked(exchange)
        first, second = fields.texts("text_1"), fields.texts("text_2")
        if len(first) not in (1, len(second)) or not 1 <= len(second) <= MOST_INPUTS:
            fields.refuse(
                "text_1",
                f"has {len(first)} texts and 'text_2' {len(second)}, expected one or as many, and"
                f" at most {MOST_INPUTS}",
            )
        pairs = list(zip(first * (len(second) if len(first) == 1 else 1), second, strict=True))
        responses = await self._scored(exchange, model, pairs)
        data = [
            {"index": number, "object": "score", "score": _score(response)}
            for number, response in enumerate(responses)
        ]
        told = identify("score-", asked, model).head("list") | {"data": data}
        return _reply(exchange, told | {"usage": input_usage(responses)})

    async def _asked(self, exchange: Exchange) -> tuple[Fields, Model, str]:
        fields = Fields(await self._asker.document(exchange))
        asked = fields.text("model")
        return fields, self._catalogue.choose(exchange.call.permit, asked, Task.RERANK), asked

    async def _scored(
        self, exchange: Exchange, model: Model, pairs: Sequence[tuple[str, str]]
    ) -> list[InferResponse]:
        config = model.config
        outputs = [name for name in _OUTPUTS if config.find_output(name) is not None]
        made = [
            bare_request(config, {"query": (q.encode(),), "document": (d.encode(),)}, outputs)
            for q, d in pairs
        ]
        return await self._asker.whole(exchange, made)


def _documents(fields: Fields) -> list[str]:
    """The texts, each as it is or in an object."""
    items = fields.items("documents")
    if not 1 <= len(items) <= MOST_INPUTS:
        fields.refuse("documents", f"has {len(items)} entries, expected 1 to {MOST_INPUTS}")
    if any(isinstance(item, str) for item in items):
        return fields.texts("documents")
    return [item.text("text") for item in fields.objects("documents")]


def _score(response: InferResponse) -> float:
    output = response.output("score")
    if output is None:
        raise Internal(f"model '{response.model_name}' gave no score", scheduled=True)
    return float(output.numpy().reshape(-1)[0])


def _reply(exchange: Exchange, document: dict[str, Any]) -> Reply:
    return Reply((write_document(document),), headers=exchange.call.told)
