"""POST /v1/completions: one text goes on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from penstock.generative.answers import read_answer
from penstock.generative.asker import Asker, events_reply
from penstock.generative.catalogue import Catalogue
from penstock.generative.fields import Fields
from penstock.generative.question import make_request
from penstock.openai.completion_request import CompletionRequest, read_completion
from penstock.openai.completion_response import KIND, CompletionWriter
from penstock.openai.errors import refused
from penstock.openai.events import DONE, Failure, document_event
from penstock.openai.identity import Identity, identify
from penstock.openai.paths import ROOTS
from penstock.openai.usage import Usage
from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_runtime.request import InferRequest, InferResponse


class CompletionsFace:
    """Answers requests for completions."""

    def __init__(self, asker: Asker, catalogue: Catalogue) -> None:
        self._asker = asker
        self._catalogue = catalogue

    def routes(self) -> Sequence[Route]:
        """The paths of completions."""
        return [
            Route("POST", f"{root}/completions", self.complete, Category.INFERENCE, refusal=refused)
            for root in ROOTS
        ]

    async def complete(self, exchange: Exchange) -> Reply | EventsReply:
        """A whole answer, or its pieces."""
        asked = await self._asker.read(exchange, partial(self._asked, exchange))
        identity, request, made = asked
        if request.wish.stream:
            events = self._events(exchange, identity, request, made)
            return await events_reply(exchange, events, Failure(exchange))
        responses = await self._asker.whole(exchange, made)
        return await self._asker.reply(exchange, responses, partial(_told, identity, request))

    def _asked(
        self, exchange: Exchange, fields: Fields
    ) -> tuple[Identity, CompletionRequest, list[InferRequest]]:
        name = fields.text("model")
        model, adapter = self._catalogue.choose_adapted(exchange.call.permit, name)
        request = read_completion(fields, adapter)
        identity = identify("cmpl-", name, model)
        made = [make_request(q, model.config, identity.id) for q in request.questions]
        return identity, request, made

    async def _events(
        self,
        exchange: Exchange,
        identity: Identity,
        request: CompletionRequest,
        made: Sequence[InferRequest],
    ) -> AsyncIterator[bytes]:
        writer, usage = CompletionWriter(request), Usage()
        head = identity.head(KIND)
        no_usage: dict[str, Any] = {"usage": None} if request.wish.usage else {}
        async with aclosing(self._asker.stream(exchange, made)) as batches:
            async for batch in batches:
                piece = b""
                for prompt, response in batch:
                    answer = read_answer(response)
                    usage.add(prompt, answer)
                    for choice in writer.piece(prompt, answer):
                        piece += document_event(head | {"choices": [choice]} | no_usage)
                if piece:
                    yield piece
        if request.bare:
            usage.forget_outputs()
        if request.wish.usage or request.wish.metrics:
            yield document_event(head | {"choices": []} | usage.last(request.wish))
        yield DONE


def _told(
    identity: Identity, request: CompletionRequest, responses: Sequence[InferResponse]
) -> dict[str, Any]:
    """The whole answer."""
    answers, usage = [read_answer(response) for response in responses], Usage()
    for prompt, answer in enumerate(answers):
        usage.add(prompt, answer)
    if request.bare:
        usage.forget_outputs()
    choices = CompletionWriter(request).whole(answers)
    return identity.head(KIND) | {"choices": choices} | usage.whole(request.wish)
