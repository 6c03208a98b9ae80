"""A call whose answers are compressed where its caller accepts that. Long messages are compressed
in a thread, because the loop has other calls to carry.
"""

import asyncio
from collections.abc import Awaitable, Sequence

from penstock.transport.base import Message
from penstock.transport.http2.answers import response_head
from penstock.transport.http2.call import ServerCall
from penstock.transport.http2.compression import compress
from penstock.transport.http2.stream import CLOSED

COMPRESS_FROM = 1024
"""Shorter messages travel as they are: they fill one packet at most."""
ASIDE_FROM = 64 << 10


class CompressingCall(ServerCall):
    """Made instead of `ServerCall` where answers are to be compressed."""

    __slots__ = ()

    level = 6

    def reply(self, message: Message) -> None:
        """End the call with this message and status OK."""
        encoding = self._encoding()
        whole = b"".join(message) if isinstance(message, tuple) else bytes(message)
        size = len(whole)
        if encoding is None or size < COMPRESS_FROM:
            super().reply(message)
            return
        if size < ASIDE_FROM:
            self._respond(whole, compress(whole, encoding, self.level), encoding)
            return
        self.on_cancel = None
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, compress, whole, encoding, self.level)
        future.add_done_callback(lambda done: self._compressed(whole, done, encoding))

    def _compressed(
        self, message: bytes, done: "asyncio.Future[bytes | None]", encoding: str
    ) -> None:
        if done.cancelled() or done.exception() is not None:
            super().reply(message)
        else:
            self._respond(message, done.result(), encoding)

    def _respond(self, message: bytes, short: bytes | None, encoding: str) -> None:
        if short is None:
            super().reply(message)
            return
        self._leave()
        head = response_head(encoding)
        self.connection.respond(self, short, self.trailing, compressed=True, head=head)
        self._write()

    def write_many(self, messages: Sequence[bytes]) -> Awaitable[None]:
        """Send several messages in this order; returns once there is room for more."""
        encoding = self._encoding()
        if encoding is None:
            return super().write_many(messages)
        return self._write_compressed(messages, encoding)

    async def _write_compressed(self, messages: Sequence[bytes], encoding: str) -> None:
        if not self.head_sent:
            self.connection.send_head(self, response_head(encoding))
        for message in messages:
            short = None
            if len(message) >= ASIDE_FROM:
                short = await asyncio.to_thread(compress, message, encoding, self.level)
            elif len(message) >= COMPRESS_FROM:
                short = compress(message, encoding, self.level)
            if short is None:
                await super().write_many((message,))
                continue
            if not self.connection.send_messages(self, (short,), compressed=True):
                raise asyncio.CancelledError
            self._write()
            await self._has_room()

    def _encoding(self) -> str | None:
        accepts = self.head.accepts
        return accepts[0] if accepts and self.state != CLOSED else None


def compressing(level: int) -> type[ServerCall]:
    """The kind of call that compresses at this level of zlib's; 0: the plain one."""
    if level == 0:
        return ServerCall

    class Compressing(CompressingCall):
        __slots__ = ()

    Compressing.level = level
    return Compressing
