"""Server-sent events as OpenAI has them: documents, an error in their place, and [DONE]."""

from typing import Any

from penstock.openai.errors import error_document
from penstock.rest.documents import write_document
from penstock.rest.exchange import Exchange
from penstock.rest.generate_response import event
from penstock_runtime.errors import PenstockError

DONE = event(b"[DONE]")


def document_event(document: Any) -> bytes:
    """A document as an event."""
    return event(write_document(document))


class Failure:
    """Makes the event of an error in the middle of a stream, which is its last but [DONE]."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self, error: PenstockError) -> bytes:
        """The event, and the end."""
        request = self._exchange.call.request
        return event(error_document(error, request.id if request is not None else "")) + DONE
