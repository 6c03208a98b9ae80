"""POST /generate, /generate_stream and /, GET /info: the paths of TGI. Of several models that
generate text the field `model` names one.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from penstock.auth.caller import permit_of
from penstock.generative.answers import read_answer
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
from penstock_runtime.request import InferRequest, InferResponse


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f}"


_HEADERS: tuple[tuple[str, str, Callable[[int], str]], ...] = (
    ("x-prompt-tokens", "num_input_tokens", str),
    ("x-generated-tokens", "num_output_tokens", str),
    ("x-queue-time", "queue_ns", _ms),
    ("x-time-per-token", "itl_mean_ns", _ms),
)


class Asked(NamedTuple):
    """What a caller asks, and the request that asks it of the model."""

    request: GenerateRequest
    made: InferRequest


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
        return await self._whole(exchange, await self._read(exchange, stream=False))

    async def generate_stream(self, exchange: Exchange) -> EventsReply:
        """An event for each token."""
        return await self._stream(exchange, await self._read(exchange, stream=True))

    async def compatible(self, exchange: Exchange) -> Reply | EventsReply:
        """Either of them, as the field `stream` says; a whole text comes in an array."""
        asked = await self._read(exchange, stream=None)
        if asked.request.question.stream:
            return await self._stream(exchange, asked)
        return await self._whole(exchange, asked, in_list=True)

    async def info(self, exchange: Exchange) -> Reply:
        """What is served."""
        models = self._catalogue.models(permit_of(exchange.call), (Task.GENERATE,))
        return document_reply(info(models))

    async def _read(self, exchange: Exchange, *, stream: bool | None) -> Asked:
        return await self._asker.read(exchange, partial(self._asked, exchange, stream))

    def _asked(self, exchange: Exchange, stream: bool | None, fields: Fields) -> Asked:
        name = fields.text("model")
        model, adapter = self._catalogue.choose_adapted(exchange.call.permit, name)
        streams = fields.flag("stream") if stream is None else stream
        request = read_generate(fields, adapter, stream=streams)
        return Asked(request, make_request(request.question, model.config, new_id("gen-")))

    async def _whole(self, exchange: Exchange, asked: Asked, *, in_list: bool = False) -> Reply:
        responses = await self._asker.whole(exchange, [asked.made])

        def told(found: Sequence[InferResponse]) -> Any:
            document = whole(asked.request, read_answer(found[0]))
            return [document] if in_list else document

        reply = await self._asker.reply(exchange, responses, told)
        return replace(reply, headers={**reply.headers, **_figures(responses[0])})

    async def _stream(self, exchange: Exchange, asked: Asked) -> EventsReply:
        def failed(error: PenstockError) -> bytes:
            return event(error_document(error, asked.made.id))

        events = self._events(exchange, asked.request, asked.made)
        return await events_reply(exchange, events, failed)

    async def _events(
        self, exchange: Exchange, request: GenerateRequest, made: InferRequest
    ) -> AsyncIterator[bytes]:
        events = TokenEvents(request)
        async with aclosing(self._asker.stream(exchange, [made])) as batches:
            async for batch in batches:
                documents = [d for _, r in batch for d in events.documents(read_answer(r))]
                if documents:
                    yield b"".join(event(write_document(document)) for document in documents)


def _figures(response: InferResponse) -> dict[str, str]:
    """What an answer took is told in headers too: tokens, and milliseconds."""
    told = {}
    for header, name, write in _HEADERS:
        output = response.output(name)
        if output is not None:
            told[header] = write(int(output.numpy().sum()))
    return told
