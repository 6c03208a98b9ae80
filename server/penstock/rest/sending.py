"""Sending answers: in pieces that a slow reader can take, and no longer than it takes any."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain
from typing import Any

from penstock.rest.exchange import EventsReply, Piece, Reply, Send

PIECE_BYTES = 256 << 10
EVENTS = "text/event-stream; charset=utf-8"


class ReaderStalledError(Exception):
    """Whoever should read an answer takes nothing of it."""


class Sender:
    """Sends one answer; `sent` are the bytes of its body so far."""

    __slots__ = ("_send", "_stall_s", "sent")

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self.sent = 0

    async def reply(self, reply: Reply) -> None:
        """Send an answer of a known size."""
        headers = {**reply.headers, "Content-Length": str(reply.size)}
        await self._start(reply.code, reply.content_type, headers)
        last: Piece = b""
        for part in chain.from_iterable(map(_small, reply.pieces)):
            if last:
                await self._body(last, more=True)
            last = part
        await self._body(last, more=False)

    async def events(self, reply: EventsReply) -> None:
        """Send events as they come."""
        await self._start(200, EVENTS, {"Cache-Control": "no-cache"})
        async for event in reply.events:
            await self._body(event, more=True)
        await self._body(b"", more=False)

    async def _start(self, code: int, content_type: str, headers: Mapping[str, str]) -> None:
        named = {"Content-Type": content_type, **headers}
        encoded = [(k.lower().encode(), v.encode("latin-1")) for k, v in named.items()]
        await self._put({"type": "http.response.start", "status": code, "headers": encoded})

    async def _body(self, piece: Piece, *, more: bool) -> None:
        await self._put({"type": "http.response.body", "body": piece, "more_body": more})
        self.sent += len(piece)

    async def _put(self, event: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(event)
        except TimeoutError:
            raise ReaderStalledError from None


def _small(piece: Piece) -> Iterator[Piece]:
    """The piece in parts that are not too large to be sent at once."""
    if len(piece) <= PIECE_BYTES:
        yield piece
        return
    view = memoryview(piece)
    for at in range(0, len(view), PIECE_BYTES):
        yield view[at : at + PIECE_BYTES]


async def closed(events: AsyncIterator[Any]) -> None:
    """End events that are not read any more, and with them whoever makes them."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()
