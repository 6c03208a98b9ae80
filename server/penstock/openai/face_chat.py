"""POST /v1/chat/completions: a conversation goes on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from penstock.generative.answers import read_answer
from penstock.generative.asker import Asker, events_reply
from penstock.generative.catalogue import Catalogue
from penstock.generative.fields import Fields
from penstock.generative.question import make_request
from penstock.openai.chat_request import ChatRequest, read_chat
from penstock.openai.chat_response import CHUNK, KIND, ChatWriter
from penstock.openai.errors import refused
from penstock.openai.events import DONE, Failure, document_event
from penstock.openai.identity import Identity, identify
from penstock.openai.paths import ROOTS
from penstock.openai.usage import Usage
from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_runtime.request import InferRequest, InferResponse


class ChatFace:
    """Answers requests for chat completions."""

    def __init__(self, asker: Asker, catalogue: Catalogue) -> None:
        self._asker = asker
        self._catalogue = catalogue

    def routes(self) -> Sequence[Route]:
        """The paths of chat completions."""
        category = Category.INFERENCE
        return [
            Route("POST", f"{root}/chat/completions", self.chat, category, refusal=refused)
            for root in ROOTS
        ]

    async def chat(self, exchange: Exchange) -> Reply | EventsReply:
        """A whole answer, or its pieces."""
        asked = await self._asker.read(exchange, partial(self._asked, exchange))
        identity, request, made = asked
        if request.wish.stream:
            events = self._events(exchange, identity, request, made)
            return await events_reply(exchange, events, Failure(exchange))
        responses = await self._asker.whole(exchange, [made])
        return await self._asker.reply(exchange, responses, partial(_told, identity, request))

    def _asked(
        self, exchange: Exchange, fields: Fields
    ) -> tuple[Identity, ChatRequest, InferRequest]:
        name = fields.text("model")
        model, adapter = self._catalogue.choose_adapted(exchange.call.permit, name)
        request = read_chat(fields, adapter)
        identity = identify("chatcmpl-", name, model)
        return identity, request, make_request(request.question, model.config, identity.id)

    async def _events(
        self, exchange: Exchange, identity: Identity, request: ChatRequest, made: InferRequest
    ) -> AsyncIterator[bytes]:
        writer, usage = ChatWriter(request), Usage()
        head = identity.head(CHUNK)
        no_usage: dict[str, Any] = {"usage": None} if request.wish.usage else {}
        async with aclosing(self._asker.stream(exchange, [made])) as batches:
            async for batch in batches:
                piece = b""
                for _, response in batch:
                    answer = read_answer(response)
                    usage.add(0, answer)
                    for choice in writer.piece(answer):
                        piece += document_event(head | {"choices": [choice]} | no_usage)
                if piece:
                    yield piece
        if request.wish.usage or request.wish.metrics:
            yield document_event(head | {"choices": []} | usage.last(request.wish))
        yield DONE


def _told(
    identity: Identity, request: ChatRequest, responses: Sequence[InferResponse]
) -> dict[str, Any]:
    """The whole answer."""
    answer, usage = read_answer(responses[0]), Usage()
    usage.add(0, answer)
    document = identity.head(KIND) | {
        "choices": ChatWriter(request).whole(answer),
        **usage.whole(request.wish),
    }
    return document | ({"prompt_logprobs": answer.prompt_document} if answer.prompt else {})
