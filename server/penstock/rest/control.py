"""The handlers of the calls that gRPC has, called from HTTP: messages in, messages out."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf.message import Message

from penstock.codec.wire import shown
from penstock.rest.documents import expect_object, expect_text, kind_of, read_object, write_document
from penstock.rest.exchange import Exchange, Reply
from penstock.transport.base import UnaryHandler
from penstock.workshop import Workshop
from penstock_runtime.errors import InvalidArgument

M = TypeVar("M", bound=Message)

_LIGHT_BYTES = 64 << 10


class Control:
    """Calls the handlers of RPCs, which are known by the names of these."""

    def __init__(self, handlers: Mapping[str, UnaryHandler], shop: Workshop) -> None:
        self._handlers = handlers
        self._shop = shop

    async def ask(self, rpc: str, request: Message, kind: type[M], exchange: Exchange) -> M:
        """The answer of an RPC to a request."""
        data = await self._handlers[rpc](request.SerializeToString(), exchange.call)
        return kind.FromString(data)

    async def document(self, exchange: Exchange) -> Mapping[str, Any]:
        """The object in the body; an empty one if there is no body."""
        if len(exchange.body) > _LIGHT_BYTES:
            return await self._shop.aside(read_object, exchange.body)
        return read_object(exchange.body)


def document_reply(document: Any, code: int = 200) -> Reply:
    """A document as an answer."""
    return Reply((write_document(document),), code)


def parameters_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object `parameters` in a document, empty if there is none."""
    return expect_object(document.get("parameters", {}), "'parameters'")


def flag_of(document: Mapping[str, Any], name: str) -> bool:
    """A boolean of a document, false if it is not there."""
    value = document.get(name, False)
    if not isinstance(value, bool):
        _wrong(name, value, "a boolean")
    return value


def size_of(document: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A number of bytes in a document, of at most 64 bits."""
    value = document.get(name, default)
    if type(value) is not int or not 0 <= value < 1 << 63:
        _wrong(name, value, "an integer of 0 or more in 63 bits")
    return value


def base64_of(value: Any, name: str) -> bytes:
    """The bytes that a text stands for."""
    text = expect_text(value, f"'{shown(name)}'")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"'{shown(name)}' is not base64") from None


def _wrong(name: str, value: Any, expected: str) -> NoReturn:
    raise InvalidArgument(f"'{name}' is {kind_of(value)}, expected {expected}")
