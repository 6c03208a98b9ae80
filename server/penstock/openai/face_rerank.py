"""POST /v1/rerank and /v1/score: how well documents suit a query."""

from collections.abc import Sequence
from functools import partial

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue, Task
from penstock.generative.fields import Fields
from penstock.openai.errors import refused
from penstock.openai.identity import identify
from penstock.openai.pairs import Ranking, Scoring, read_ranking, read_scoring
from penstock.openai.paths import ROOTS
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Endpoint, Route
from penstock.rpc import Category


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
        request = await self._asker.read(exchange, partial(self._ranking, exchange))
        responses = await self._asker.whole(exchange, request.made)
        return await self._asker.reply(exchange, responses, request.told)

    async def score(self, exchange: Exchange) -> Reply:
        """A score for each pair, in their order."""
        request = await self._asker.read(exchange, partial(self._scoring, exchange))
        responses = await self._asker.whole(exchange, request.made)
        return await self._asker.reply(exchange, responses, request.told)

    def _ranking(self, exchange: Exchange, fields: Fields) -> Ranking:
        name = fields.text("model")
        model = self._catalogue.choose(exchange.call.permit, name, Task.RERANK)
        return read_ranking(fields, model.config, identify("rerank-", name, model))

    def _scoring(self, exchange: Exchange, fields: Fields) -> Scoring:
        name = fields.text("model")
        model = self._catalogue.choose(exchange.call.permit, name, Task.RERANK)
        return read_scoring(fields, model.config, identify("score-", name, model))
