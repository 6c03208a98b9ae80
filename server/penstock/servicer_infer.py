"""ModelInfer and ModelStreamInfer: bytes in, requests to the core, answers back as bytes."""

from collections.abc import AsyncIterator
from functools import partial

from penstock.admission import NO_HEADERS
from penstock.auth.caller import permit_of
from penstock.bare_stream import BareCall
from penstock.codec.encode import encode_response
from penstock.load_report import ASKED
from penstock.stream_session import StreamSession
from penstock.timing import with_timing
from penstock.transport.base import Call
from penstock.wishes import (
    BARE_METADATA,
    TIMING_PARAMETER,
    TYPED_METADATA,
    metadata_flag,
    wants_typed,
)
from penstock.workshop import Workshop, is_heavy_response
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import ResponseStream


class InferServicer:
    """Answers the two calls that execute models. Lives on one event loop."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def model_infer(self, data: bytes, call: Call) -> bytes:
        """One request, one response."""
        shop = self._shop
        metadata = call.metadata
        headers = shop.admission.headers(metadata) if shop.admission.forwards else NO_HEADERS
        admit = partial(shop.admission.admit, unary=True, permit=permit_of(call), call=call)
        deadline_ns = call.deadline_ns
        size = len(data)
        shop.budget.take(size)
        stream = ResponseStream(shop.inbox)
        try:
            if shop.admission.is_heavy(data):
                await shop.aside(admit, data, stream, call, deadline_ns, headers)
            else:
                admit(data, stream, call, deadline_ns, headers)
            response = call.response = await stream.single()
            if ASKED in metadata:
                shop.load.attach(call, response)
            return await self._encode(response, call, metadata_flag(metadata, TYPED_METADATA))
        finally:
            shop.budget.give(size)
            # The caller is gone, or nobody reads what else would come.
            if not stream.ended:
                stream.cancel()

    async def _encode(self, response: InferResponse, call: Call, typed: bool) -> bytes:
        request = call.request
        if request is not None and request.parameters:
            typed = wants_typed(request, typed)
            if request.parameters.get(TIMING_PARAMETER):
                response = with_timing(request, response)
        if is_heavy_response(response, typed):
            return await self._shop.aside(encode_response, response, typed)
        return encode_response(response, typed)

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: Call) -> None:
        """Many requests over one call, each with any number of responses."""
        if metadata_flag(call.metadata, BARE_METADATA):
            call = BareCall(call)
        await StreamSession(self._shop, call).run(messages)
