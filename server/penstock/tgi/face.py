"""POST /generate, /generate_stream and /, GET /info: the paths of TGI. Of several models that
generate text the field `model` names one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from penstock.auth.caller import permit_of
from penstock.generative.answers import Answer, read_answer
from penstock.generative.asker import Asker, events_reply
from penstock.generative.catalogue import Catalogue, Task
from penstock.generative.fields import Fields
from penstock.generative.question import make_request
from penstock.openai.identity import new_id
from penstock.rest.control import document_reply
from penstock.rest.documents import write_document
from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.generate_response import event
from penstock.rest.route import Endpoint, Route
from penstock.rpc import Category
from penstock.tgi.errors import error_document, refused
from penstock.tgi.info import info
from penstock.tgi.request import GenerateRequest, read_generate
from penstock.tgi.response import TokenEvents, whole
from penstock.workshop import Workshop
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest


class TgiFace:
    """Answers as TGI does."""

    def __init__(self, shop: Workshop, core: InferenceCore) -> None:
        self._asker = Asker(shop)
        self._catalogue = Catalogue(core)

    def routes(self) -> Sequence[Route]:
        """Its paths."""
        posts: tuple[tuple[str, Endpoint], ...] = (
            ("/generate", self.generate),
            ("/generate_stream", self.generate_stream),
            ("/", self.compatible),
        )
        category = Category.INFERENCE
        made = [Route("POST", path, end, category, refusal=refused) for path, end in posts]
        return [*made, Route("GET", "/info", self.info, Category.METADATA, refusal=refused)]

    async def generate(self, exchange: Exchange) -> Reply:
        """A whole text."""
        fields = Fields(await self._asker.document(exchange))
        return await self._whole(exchange, fields, in_list=False)

    async def generate_stream(self, exchange: Exchange) -> EventsReply:
        """An event for each token."""
        return await self._stream(exchange, Fields(await self._asker.document(exchange)))

    async def compatible(self, exchange: Exchange) -> Reply | EventsReply:
        """Either of them, as the field `stream` says; a whole text comes in an array."""
        fields = Fields(await self._asker.document(exchange))
        if fields.flag("stream"):
            return await self._stream(exchange, fields)
        return await self._whole(exchange, fields, in_list=True)

    async def info(self, exchange: Exchange) -> Reply:
        """What is served."""
        models = self._catalogue.models(permit_of(exchange.call), (Task.GENERATE,))
        return document_reply(info(models))

    async def _whole(self, exchange: Exchange, fields: Fields, *, in_list: bool) -> Reply:
        request, made = self._asked(exchange, fields, stream=False)
        (response,) = await self._asker.whole(exchange, [made])
        answer = read_answer(response)
        told = whole(request, answer)
        body = write_document([told] if in_list else told)
        return Reply((body,), headers={**exchange.call.told, **_counts(answer)})

    async def _stream(self, exchange: Exchange, fields: Fields) -> EventsReply:
        request, made = self._asked(exchange, fields, stream=True)

        def failed(error: PenstockError) -> bytes:
            return event(error_document(error, made.id))

        return await events_reply(exchange, self._events(exchange, request, made), failed)

    async def _events(
        self, exchange: Exchange, request: GenerateRequest, made: InferRequest
    ) -> AsyncIterator[bytes]:
        events = TokenEvents(request)
        async with aclosing(self._asker.stream(exchange, [made])) as batches:
            async for batch in batches:
                documents = [d for _, r in batch for d in events.documents(read_answer(r))]
                if documents:
                    yield b"".join(event(write_document(document)) for document in documents)

    def _asked(
        self, exchange: Exchange, fields: Fields, *, stream: bool
    ) -> tuple[GenerateRequest, InferRequest]:
        asked = fields.text("model")
        model, adapter = self._catalogue.choose_adapted(exchange.call.permit, asked)
        request = read_generate(fields, adapter, stream=stream)
        return request, make_request(request.question, model.config, new_id("gen-"))


def _counts(answer: Answer) -> dict[str, str]:
    """TGI tells what an answer took in its headers too."""
    made = sum(choice.output_tokens for choice in answer.choices)
    return {"x-prompt-tokens": str(answer.prompt_tokens), "x-generated-tokens": str(made)}
