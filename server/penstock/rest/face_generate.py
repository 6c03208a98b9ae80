"""Triton's generate extension: a flat object in, a flat object out, or many as events."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from penstock.codec.decode import decode_parts
from penstock.codec.parameters import EMPTY_FINAL_RESPONSE
from penstock.generative.catalogue import Task, task_of
from penstock.load_report import ASKED
from penstock.rest.documents import read_object
from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.face_health import MODEL
from penstock.rest.face_infer import forwarded_headers
from penstock.rest.generate_request import read_generate_request
from penstock.rest.generate_response import event, write_generated
from penstock.rest.generate_text import read_text_request, wants_details, write_detailed
from penstock.rest.refusals import error_document
from penstock.rest.route import Route
from penstock.rest.sending import closed
from penstock.rpc import Category
from penstock.status import public_error
from penstock.timing import with_timing
from penstock.wishes import TIMING_PARAMETER
from penstock.workshop import Workshop, is_heavy_response
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import ResponseStream

_LIGHT_BYTES = 64 << 10


class GenerateFace:
    """Answers requests to generate, of models with one response and of those with many."""

    def __init__(self, shop: Workshop, core: InferenceCore) -> None:
        self._shop = shop
        self._core = core

    def routes(self) -> Sequence[Route]:
        """The paths of the extension."""
        made = [Route("POST", f"{m}/generate", self.generate, Category.INFERENCE) for m in MODEL]
        streams = (f"{m}/generate_stream" for m in MODEL)
        return [
            *made,
            *(Route("POST", path, self.generate_stream, Category.INFERENCE) for path in streams),
        ]

    async def generate(self, exchange: Exchange) -> Reply:
        """One request, one response: Internal if the model gives none, or more."""
        responses = self._responses(exchange, stream=False)
        try:
            first = await anext(responses, None)
            more = await anext(responses, None) if first is not None else None
        finally:
            await closed(responses)
        if first is None or more is not None:
            count = 0 if first is None else 2
            raise Internal(f"expected a single response, got {count}", scheduled=True)
        call = exchange.call
        call.response = first
        if ASKED in call.metadata:
            self._shop.load.attach(call, first)
        document = await self._told(exchange, first, stream=False)
        return Reply((document,), headers=call.told)

    async def generate_stream(self, exchange: Exchange) -> EventsReply:
        """One request, any number of responses; what fails before the first of them has a status
        of its own.
        """
        responses = self._responses(exchange, stream=True)
        try:
            first = await anext(responses, None)
            opening = b"" if first is None else await self._event(exchange, first)
        except BaseException:
            await closed(responses)
            raise
        return EventsReply(self._events(exchange, opening, responses))

    async def _events(
        self, exchange: Exchange, opening: bytes, responses: AsyncIterator[InferResponse]
    ) -> AsyncIterator[bytes]:
        try:
            yield opening
            async for response in responses:
                yield await self._event(exchange, response)
        except Exception as error:
            known = public_error(error)
            exchange.status = known.status.value
            request = exchange.call.request
            yield event(error_document(known, request.id if request is not None else ""))
        finally:
            await closed(responses)

    async def _responses(
        self, exchange: Exchange, *, stream: bool
    ) -> AsyncGenerator[InferResponse, None]:
        """Every response; of a stream the empty last one too, if that was asked for."""
        exchange.call.read_deadline()
        news = ResponseStream(self._shop.inbox)
        try:
            with exchange.watched(news.cancel):
                if len(exchange.body) > _LIGHT_BYTES:
                    await self._shop.aside(self._admit, exchange, news, stream=stream)
                else:
                    self._admit(exchange, news, stream=stream)
                while (response := await news.next()) is not None:
                    if not response.empty or (stream and _wants_final(exchange)):
                        exchange.call.response = response
                        yield response
        finally:
            if not news.ended:
                news.cancel()

    def _admit(self, exchange: Exchange, news: ResponseStream, *, stream: bool) -> None:
        call, admission = exchange.call, self._shop.admission
        name, version = exchange.value("model"), exchange.value("version")
        document = read_object(exchange.body)
        # Before anyone looks whether there is such a model.
        call.permit.check(name)
        config = self._core.model(name, version).config
        if task_of(config) is Task.GENERATE:
            exchange.detailed = wants_details(document)
            parts = read_text_request(document, name, version, config, stream=stream)
        else:
            parts = read_generate_request(document, name, version, config)
        headers = forwarded_headers(self._shop, call)
        request = decode_parts(parts, time.monotonic_ns(), call.deadline_ns, headers, headers)
        request = request._replace(single=not stream)
        admission.enter(request, news, call, permit=call.permit, call=call)

    async def _event(self, exchange: Exchange, response: InferResponse) -> bytes:
        return event(await self._told(exchange, response, stream=True))

    async def _told(self, exchange: Exchange, response: InferResponse, *, stream: bool) -> bytes:
        tell_final = stream and _wants_final(exchange)
        if exchange.detailed and not response.empty:
            return write_detailed(response, stream=stream)
        request = exchange.call.request
        if request is not None and request.parameters.get(TIMING_PARAMETER):
            response = with_timing(request, response)
        if is_heavy_response(response, typed=True):
            return await self._shop.aside(write_generated, response, tell_final=tell_final)
        return write_generated(response, tell_final=tell_final)


def _wants_final(exchange: Exchange) -> bool:
    request = exchange.call.request
    return request is not None and bool(request.parameters.get(EMPTY_FINAL_RESPONSE))
