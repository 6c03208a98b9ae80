"""The seam between a transport and everything above it.

A transport serves handlers that take and give bytes. What it knows of one call it offers as a
`Call`; what a handler refuses with is a `Refusal`, a status that was translated already.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.status import Answer
from penstock_runtime.errors import PenstockError
from penstock_runtime.observability.metrics import Family
from penstock_runtime.request import InferRequest, InferResponse

Metadata = Sequence[tuple[str, str | bytes]]
Buffer = bytes | memoryview
"""A message that came in: views are on memory that belongs to this message alone."""
Message = bytes | tuple[Buffer, ...]
"""A message that goes out, whole or in pieces that follow each other."""


class Call(Protocol):
    """One call, as its handler sees it. Everything is read from the transport when asked for."""

    request: InferRequest | None
    """Set by the handler once the request is decoded: what the log line and errors speak of."""

    response: InferResponse | None
    """Set by the handler of a unary call when there is a response."""

    @property
    def method(self) -> str:
        """Full name, as in `/inference.GRPCInferenceService/ModelInfer`."""

    @property
    def peer(self) -> str:
        """Where the call comes from, as in `ipv4:127.0.0.1:50000`."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The caller's metadata, names in lower case; binary values are left out."""

    @property
    def deadline_ns(self) -> int | None:
        """The monotonic time after which the caller does not wait any more."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Send this at the end of a call that succeeds; an error brings its own."""

    @property
    def write(self) -> Callable[[bytes], Awaitable[None]]:
        """Sends a message of a streaming call; returns once the transport has room for more."""

    @property
    def write_many(self) -> Callable[[Sequence[bytes]], Awaitable[None]]:
        """Sends several messages of a streaming call at once, in this order; as `write`."""

    def abort(self, error: PenstockError) -> None:
        """End a streaming call with this error although its handler waits; on the loop only."""


class QuickCall(Call, Protocol):
    """A unary call whose handler returns at once and answers later, on the loop, exactly once."""

    on_cancel: Callable[[], None] | None
    """Set by the handler: called, at most once, when the caller is gone before the answer."""

    def reply(self, message: Message) -> None:
        """End the call with this message and status OK; nothing happens if the caller is gone."""

    def refuse(self, answer: Answer) -> None:
        """End the call with this status; nothing happens if the caller is gone."""


class Refusal(Exception):
    """A call that ends with a status other than OK. Raised by the guard around every handler."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


UnaryHandler = Callable[[bytes, Call], Awaitable[bytes]]
QuickHandler = Callable[[Buffer, QuickCall], None]
StreamHandler = Callable[[AsyncIterator[bytes], Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """One method to serve: exactly one of `unary` and `stream` is set.

    `submit` is another way into a unary method, for transports that have quick calls: it never
    blocks and never raises, and costs no coroutine.
    """

    path: str
    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None
    submit: QuickHandler | None = None


class Transport(Protocol):
    """Serves methods on the addresses that it was made for."""

    async def start(self) -> Sequence[str]:
        """Bind and accept; the addresses with their real ports. Raises if one cannot be had."""

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, let what is inside go on for `grace_s`, then cut it off."""

    def families(self) -> Sequence[Family]:
        """What a scrape learns of the transport itself."""
