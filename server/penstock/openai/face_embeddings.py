"""POST /v1/embeddings: texts as vectors."""

from collections.abc import Sequence
from functools import partial

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue, Task
from penstock.generative.fields import Fields
from penstock.openai.embedding_request import EmbeddingRequest, read_embedding
from penstock.openai.errors import refused
from penstock.openai.paths import ROOTS
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category


class EmbeddingsFace:
    """Answers requests for embeddings. Each text is a request of its own, and the model's batcher
    puts those together that suit each other.
    """

    def __init__(self, asker: Asker, catalogue: Catalogue) -> None:
        self._asker = asker
        self._catalogue = catalogue

    def routes(self) -> Sequence[Route]:
        """The paths of embeddings."""
        return [
            Route("POST", f"{root}/embeddings", self.embed, Category.INFERENCE, refusal=refused)
            for root in ROOTS
        ]

    async def embed(self, exchange: Exchange) -> Reply:
        """A vector for each text."""
        request = await self._asker.read(exchange, partial(self._asked, exchange))
        responses = await self._asker.whole(exchange, request.made)
        return await self._asker.reply(exchange, responses, request.told)

    def _asked(self, exchange: Exchange, fields: Fields) -> EmbeddingRequest:
        name = fields.text("model")
        model = self._catalogue.choose(exchange.call.permit, name, Task.EMBED)
        return read_embedding(fields, model.config)
