"""The seam between the clients and what carries their calls.

A channel takes and gives bytes. What it raises for a call that failed is an InferenceError, so that
the clients know nothing of the library or the protocol below.
"""

from collections.abc import Sequence
from typing import Protocol

Buffer = bytes | memoryview
Metadata = Sequence[tuple[str, str | bytes]]


class Answers(Protocol):
    """The messages that answer one request, as they come; dropping it ends the request."""

    def __next__(self) -> Buffer:
        """Wait for the next message; StopIteration after the last, InferenceError on failure."""

    def cancel(self) -> None:
        """End the request; what was already received is dropped. Safe to call more than once."""


class AsyncAnswers(Protocol):
    """The messages that answer one request, as they come. To be cancelled when it is left."""

    async def __anext__(self) -> Buffer:
        """Wait for the next message; StopAsyncIteration after the last, InferenceError on
        failure.
        """

    def cancel(self) -> None:
        """End the request; what was already received is dropped. Safe to call more than once."""


class Channel(Protocol):
    """Carries calls for threads that wait for them. Any thread may call."""

    def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> Buffer:
        """The answer to one request. `wait`: a server that is not there is waited for."""

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> Answers:
        """The answers to one request; `timeout_s` holds for all of them together."""

    def close(self) -> None:
        """End every open call as CANCELLED, and let go of what the channel holds."""


class AsyncChannel(Protocol):
    """Carries calls for the tasks of one loop; opened by the first call."""

    async def unary(
        self,
        method: str,
        request: bytes,
        timeout_s: float | None,
        metadata: Metadata,
        wait: bool = False,
    ) -> Buffer:
        """The answer to one request. `wait`: a server that is not there is waited for."""

    def stream(
        self, method: str, request: bytes, timeout_s: float | None, metadata: Metadata
    ) -> AsyncAnswers:
        """The answers to one request; `timeout_s` holds for all of them together."""

    async def close(self) -> None:
        """End every open call as CANCELLED; the next call opens the channel again."""
