"""Questions to the core and its answers, for one exchange over HTTP: through the same door as every
other request, and given up as soon as the caller leaves.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from penstock.codec.parameters import with_forwarded
from penstock.generative.fields import Fields
from penstock.load_report import ASKED
from penstock.rest.documents import read_object, write_document
from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.face_infer import forwarded_headers
from penstock.rest.sending import closed
from penstock.status import public_error
from penstock.workshop import Workshop
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import ResponseStream

_LIGHT_BYTES, _NUMBER_BYTES = 64 << 10, 16
# Responses that are told at once, if so many are there.
_MOST_AT_ONCE = 64

T = TypeVar("T")

Responses = list[tuple[int, InferResponse]]
"""Responses, each with the number of the request that it belongs to."""


class Asker:
    """Asks, and listens. Lives on the loop."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def read(self, exchange: Exchange, reader: Callable[[Fields], T]) -> T:
        """What a reader makes of the object in the body; aside, if that takes long."""

        def read() -> T:
            return reader(Fields(read_object(exchange.body)))

        return await self._shop.aside(read) if len(exchange.body) > _LIGHT_BYTES else read()

    async def reply(
        self,
        exchange: Exchange,
        responses: Sequence[InferResponse],
        teller: Callable[[Sequence[InferResponse]], Any],
    ) -> Reply:
        """The document that is told of responses, as an answer; made aside, if that takes long."""

        def write() -> bytes:
            return write_document(teller(responses))

        heavy = sum(map(_weight, responses)) > _LIGHT_BYTES
        body = await self._shop.aside(write) if heavy else write()
        return Reply((body,), headers=exchange.call.told)

    async def whole(
        self, exchange: Exchange, requests: Sequence[InferRequest]
    ) -> list[InferResponse]:
        """The one response to each request; Internal if a model gives none, or more."""
        found: dict[int, InferResponse] = {}
        single = [request._replace(single=True) for request in requests]
        responses = self.stream(exchange, single)
        try:
            async for batch in responses:
                for number, response in batch:
                    if number in found:
                        raise Internal("expected a single response, got 2", scheduled=True)
                    found[number] = response
        finally:
            await closed(responses)
        if len(found) < len(requests):
            raise Internal("expected a single response, got 0", scheduled=True)
        if ASKED in exchange.call.metadata:
            self._shop.load.attach(exchange.call, found[0])
        return [found[number] for number in range(len(requests))]

    async def stream(
        self, exchange: Exchange, requests: Sequence[InferRequest]
    ) -> AsyncGenerator[Responses, None]:
        """Responses as they come, those that are there at the same time together."""
        call = exchange.call
        call.read_deadline()
        streams = [ResponseStream(self._shop.inbox) for _ in requests]

        def cancel() -> None:
            for stream in streams:
                stream.cancel()

        try:
            with exchange.watched(cancel):
                for request, stream in zip(requests, streams, strict=True):
                    self._submit(exchange, request, stream)
                source = _merged(streams) if len(streams) > 1 else _batches(streams[0], 0)
                try:
                    async for batch in source:
                        call.response = batch[-1][1]
                        yield batch
                finally:
                    await closed(source)
        finally:
            for stream in streams:
                if not stream.ended:
                    stream.cancel()

    def _submit(self, exchange: Exchange, request: InferRequest, stream: ResponseStream) -> None:
        call, admission = exchange.call, self._shop.admission
        headers = forwarded_headers(self._shop, call)
        made = request._replace(
            deadline_ns=call.deadline_ns, headers=headers, received_ns=time.monotonic_ns()
        )
        if headers:
            made = made._replace(parameters=with_forwarded(made.parameters, headers))
        admission.enter(made, stream, call, permit=call.permit, call=call)


def _weight(response: InferResponse) -> int:
    """Bytes of texts, and some more for each number, which is written one by one."""
    weight = 0
    for output in response.outputs:
        if output.datatype is DataType.BYTES:
            weight += sum(map(len, output.numpy().reshape(-1).tolist()))
        else:
            weight += _NUMBER_BYTES * output.elements
    return weight


async def _batches(stream: ResponseStream, number: int) -> AsyncGenerator[Responses, None]:
    """The responses of one request, without those that only say that it is over."""
    while (response := await stream.next()) is not None:
        batch = [] if response.empty else [(number, response)]
        while len(batch) < _MOST_AT_ONCE and (more := _there(stream)) is not None:
            if not more.empty:
                batch.append((number, more))
        if batch:
            yield batch


def _there(stream: ResponseStream) -> InferResponse | None:
    try:
        return stream.pop()
    except PenstockError:
        # It is told in its turn, after what came before.
        return None


async def _merged(streams: Sequence[ResponseStream]) -> AsyncGenerator[Responses, None]:
    """The responses of several requests; the first error ends them all."""
    news: asyncio.Queue[Responses | Exception | None] = asyncio.Queue(len(streams))

    async def pump(number: int, stream: ResponseStream) -> None:
        try:
            async for batch in _batches(stream, number):
                await news.put(batch)
        except Exception as error:
            await news.put(error)
        else:
            await news.put(None)

    pumps = [asyncio.ensure_future(pump(i, stream)) for i, stream in enumerate(streams)]
    left = len(pumps)
    try:
        while left:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def events_reply(
    exchange: Exchange,
    pieces: AsyncIterator[bytes],
    failed: Callable[[PenstockError], bytes],
) -> EventsReply:
    """An answer of these events; what fails before the first of them is raised, and has a status of
    its own. What fails later is the event that `failed` makes of it.
    """
    try:
        opening = await anext(pieces, b"")
    except BaseException:
        await closed(pieces)
        raise
    return EventsReply(_events(exchange, opening, pieces, failed))


async def _events(
    exchange: Exchange,
    opening: bytes,
    pieces: AsyncIterator[bytes],
    failed: Callable[[PenstockError], bytes],
) -> AsyncIterator[bytes]:
    try:
        yield opening
        async for piece in pieces:
            yield piece
    except Exception as error:
        known = public_error(error)
        exchange.status = known.status.value
        yield failed(known)
    finally:
        await closed(pieces)
