"""Reading the body of a request: as much as is allowed, in a time that ends, and counted."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from penstock.limits import ByteBudget
from penstock.rest.exchange import Receive
from penstock.rest.problems import too_large, too_slow
from penstock_runtime.errors import Cancelled

PIECE_S, BODY_S = 30.0, 300.0
"""How long the next piece of a body, and all of it, may take to arrive."""


class BodyReader:
    """Reads one body; what it holds is counted in the server's budget until `close`."""

    __slots__ = ("_budget", "_complete", "_held", "_most")

    def __init__(self, budget: ByteBudget, most: int) -> None:
        self._budget = budget
        self._most = most
        self._held = 0
        self._complete = False

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """The body; HttpProblem 413 or 408, ResourceExhausted, Cancelled if the caller leaves."""
        claimed = headers.get("content-length", "")
        # What is said to be too much need not be read.
        if claimed.isdigit() and (len(claimed) > 19 or int(claimed) > self._most):
            raise too_large("the body has", self._most)
        try:
            async with asyncio.timeout(BODY_S):
                return await self._pieces(receive)
        except TimeoutError:
            raise too_slow("the body") from None

    async def _pieces(self, receive: Receive) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            async with asyncio.timeout(PIECE_S):
                event = await receive()
            if event["type"] == "http.disconnect":
                raise Cancelled("the caller left before the request was complete")
            piece: bytes = event.get("body", b"")
            size += len(piece)
            if size > self._most:
                raise too_large("the body has", self._most)
            self.hold(len(piece))
            pieces.append(piece)
            if not event.get("more_body", False):
                self._complete = True
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def discard(self, receive: Receive, headers: Mapping[str, str]) -> None:
        """Let a body pass that nobody reads: a connection that ends with some of it unread ends
        before the caller has seen the answer. What is too much, or too slow, is not waited for.
        """
        if self._complete or not _has_body(headers):
            return
        left = self._most
        with suppress(TimeoutError):
            async with asyncio.timeout(PIECE_S):
                while left > 0:
                    event = await receive()
                    if event["type"] == "http.disconnect" or not event.get("more_body", False):
                        return
                    left -= len(event.get("body", b""))

    def hold(self, size: int) -> None:
        """Count so many bytes more; ResourceExhausted, and nothing is held, when there is no room
        for them. One body alone may be more than there is room for, as one request over gRPC may.
        """
        held, self._held = self._held, 0
        self._budget.give(held)
        self._budget.take(held + size)
        self._held = held + size

    def close(self) -> None:
        """Give back what was counted."""
        self._budget.give(self._held)
        self._held = 0


def _has_body(headers: Mapping[str, str]) -> bool:
    """Whether a body comes without being asked for: who expects to be asked sends none before."""
    return "expect" not in headers and (
        "content-length" in headers or "transfer-encoding" in headers
    )
