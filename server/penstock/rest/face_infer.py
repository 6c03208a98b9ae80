"""Inference over HTTP: a document with binary data behind it in, and another one out."""

import time
from collections.abc import Mapping, Sequence

from penstock.admission import NO_HEADERS
from penstock.load_report import ASKED
from penstock.rest.call import HttpCall
from penstock.rest.compression import WORTH_IT, accepted, compress
from penstock.rest.exchange import JSON, Exchange, Piece, Reply
from penstock.rest.face_health import MODEL
from penstock.rest.infer_request import (
    HEADER_LENGTH,
    Body,
    Wishes,
    read_infer_request,
    split_body,
)
from penstock.rest.infer_response import is_heavy_reply, write_response
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock.timing import with_timing
from penstock.wishes import TIMING_PARAMETER
from penstock.workshop import Workshop
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import ResponseStream

DECOUPLED = "HTTP end point doesn't support models with decoupled transaction policy"
BINARY = "application/octet-stream"
_REGION = b"shared_memory_region"
_LIGHT_BYTES = 64 << 10
_HEAVY_BYTES = 16 << 20
_LEAST_BINARY_STRINGS = b'"BYTES"'


class InferFace:
    """Answers the one call that executes a model. Lives on the loop."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def routes(self) -> Sequence[Route]:
        """The paths of inference."""
        return [Route("POST", f"{m}/infer", self.infer, Category.INFERENCE) for m in MODEL]

    async def infer(self, exchange: Exchange) -> Reply:
        """One request, one response."""
        call = exchange.call
        call.read_deadline()
        body = split_body(exchange.body, call.metadata.get(HEADER_LENGTH))
        stream = ResponseStream(self._shop.inbox)
        try:
            with exchange.watched(stream.cancel):
                wishes = await self._submit(exchange, body, stream)
                response = call.response = await stream.single()
        finally:
            # The caller is gone, or nobody reads what else would come.
            if not stream.ended:
                stream.cancel()
        if ASKED in call.metadata:
            self._shop.load.attach(call, response)
        return await self._reply(call, response, wishes)

    async def _submit(self, exchange: Exchange, body: Body, stream: ResponseStream) -> Wishes:
        if is_heavy_body(body) or self._may_copy(body):
            return await self._shop.aside(self._admit, exchange, body, stream)
        return self._admit(exchange, body, stream)

    def _may_copy(self, body: Body) -> bool:
        """Whether inputs may have to be copied out of shared memory."""
        return self._shop.admission.placing is not None and _says(body.document, _REGION)

    def _admit(self, exchange: Exchange, body: Body, stream: ResponseStream) -> Wishes:
        call, admission = exchange.call, self._shop.admission
        parts, wishes = read_infer_request(body, exchange.value("model"), exchange.value("version"))
        headers = forwarded_headers(self._shop, call)
        now = time.monotonic_ns()
        request = admission.decode_parts(parts, now, call.deadline_ns, headers, headers)
        admission.enter(request, stream, call, DECOUPLED, permit=call.permit, call=call)
        return wishes

    async def _reply(self, call: HttpCall, response: InferResponse, wishes: Wishes) -> Reply:
        request = call.request
        if request is not None and request.parameters.get(TIMING_PARAMETER):
            response = with_timing(request, response)
        if is_heavy_reply(response, wishes):
            pieces, length = await self._shop.aside(write_response, response, wishes)
        else:
            pieces, length = write_response(response, wishes)
        encoding = accepted(call.metadata.get("accept-encoding", ""))
        if encoding and sum(map(len, pieces)) >= WORTH_IT:
            pieces = await self._compressed(pieces, encoding)
        else:
            encoding = ""
        return _reply(pieces, length, encoding, call.told)

    async def _compressed(self, pieces: tuple[Piece, ...], encoding: str) -> tuple[Piece, ...]:
        if sum(map(len, pieces)) > _LIGHT_BYTES:
            return await self._shop.aside(compress, pieces, encoding)
        return compress(pieces, encoding)


def is_heavy_body(body: Body) -> bool:
    """Whether reading a body takes long enough to hold up the loop: much JSON, much of anything, or
    strings, which are cut out one by one.
    """
    document, binary = len(body.document), len(body.binary)
    if document > _LIGHT_BYTES or document + binary > _HEAVY_BYTES:
        return True
    return binary > _LIGHT_BYTES and _says(body.document, _LEAST_BINARY_STRINGS)


def _says(document: Piece, word: bytes) -> bool:
    """Whether a word may be in a document, which may write any letter of it as an escape."""
    text = bytes(document)
    return word in text or b"\\u" in text


def forwarded_headers(shop: Workshop, call: HttpCall) -> Mapping[str, str]:
    """The headers that models may see."""
    admission = shop.admission
    return admission.headers(call.metadata) if admission.forwards else NO_HEADERS


def _reply(
    pieces: tuple[Piece, ...], length: int | None, encoding: str, told: Mapping[str, str]
) -> Reply:
    headers = dict(told)
    if encoding:
        headers["Content-Encoding"] = encoding
    if length is None:
        return Reply(pieces, content_type=JSON, headers=headers)
    headers["Inference-Header-Content-Length"] = str(length)
    return Reply(pieces, content_type=BINARY, headers=headers)
