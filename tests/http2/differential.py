"""What a call came to, in a form in which two transports can be compared."""

import base64
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tests.http2.frames import Code, Type
from tests.http2.raw import Answer, RawClient, name_of

Pairs = tuple[tuple[str, str | bytes], ...]
UNSAID = {
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-status",
    "date",
    ":status",
}
"""Fields that belong to the transport and are compared by what they mean."""


@dataclass(frozen=True, slots=True)
class Result:
    """One call. Bodies of more than 200 bytes are told by length and checksum."""

    http: str = "200"
    status: int | None = None
    text: str = ""
    head: Pairs = ()
    trailers: Pairs = ()
    messages: tuple[bytes, ...] = ()
    ended_by: str = "END_STREAM"

    def __str__(self) -> str:
        said = f"http {self.http}, status {self.status} {self.text!r}, {self.ended_by}"
        return f"{said}, head {self.head}, trailers {self.trailers}, messages {self.messages}"


def of_answer(client: RawClient, answer: Answer) -> Result:
    """What a raw client saw of a stream."""
    head, final = answer.head or {}, answer.final
    ended = "END_STREAM"
    if answer.reset not in (None, Code.NO_ERROR):
        ended = f"RST_STREAM {name_of(answer.reset)}"
    elif not answer.ended:
        left = [one.code for one in client.seen if one.type == Type.GOAWAY]
        ended = f"GOAWAY {name_of(left[0])}" if left else "connection closed"
    return Result(
        head.get(":status", ""),
        answer.status,
        final.get("grpc-message", ""),
        _pairs(head if answer.trailers is not None else {}),
        _pairs(final),
        tuple(map(_short, answer.messages)),
        ended,
    )


def of_call(method: Any, messages: Sequence[bytes] | bytes, **how: Any) -> Result:
    """What a grpcio client saw; a sequence of messages goes as a stream."""
    streamed = not isinstance(messages, bytes)
    got: list[bytes] = []
    try:
        if streamed:
            call = method(iter(messages), **how)
            got.extend(call)
        else:
            answer, call = method.with_call(messages, **how)
            got.append(answer)
        status, text = call.code().value[0], call.details() or ""
    except grpc.RpcError as error:
        # It is the call as well, and knows everything of it.
        call = error
        status, text = call.code().value[0], call.details() or ""
    head = tuple(sorted((key, value) for key, value in call.initial_metadata() or ()))
    trailers = tuple(sorted((key, value) for key, value in call.trailing_metadata() or ()))
    return Result("", status, text, head, trailers, tuple(map(_short, got)))


def _pairs(fields: dict[str, str]) -> Pairs:
    return tuple(
        sorted((key, _value(key, value)) for key, value in fields.items() if key not in UNSAID)
    )


def _value(key: str, value: str) -> str | bytes:
    if not key.endswith("-bin"):
        return value
    # With or without padding: both are right.
    return base64.b64decode(value + "=" * (-len(value) % 4))


SHOWN = 4096
"""Bytes of a message that are kept as they are: what `Describe` says of any metadata is less."""


def _short(message: bytes) -> bytes:
    if len(message) <= SHOWN:
        return bytes(message)
    return b"%d bytes, crc32 %d" % (len(message), zlib.crc32(message))


Conversation = Callable[[RawClient], None]
