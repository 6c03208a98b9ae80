"""What the port adds to uvicorn's HTTP protocol: bounds on connections, on heads and on silence."""

import asyncio
import logging
import socket
from typing import Any

from penstock.rest.guard import ABORT

MAX_HEAD_BYTES = 64 << 10
HEAD_S = 20.0
"""How long a connection may take to say what it wants, from its first byte or from its start."""

_SILENT = logging.getLogger("penstock.http.uvicorn")
"""For what callers do wrong, which is no news."""
_SILENT.setLevel(logging.CRITICAL)


class BoundedProtocol:
    """Mixed into either of uvicorn's protocols: `make_protocol`."""

    most_connections = 1024
    _head_bytes = 0
    _turned_away = False
    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take the connection, unless there are too many."""
        base: Any = super()
        if len(self.connections) >= self.most_connections:  # type: ignore[attr-defined]
            self._turned_away = True
            transport.abort()
            return
        _send_at_once(transport)
        # Of this connection only: a program around this server may have an uvicorn of its own.
        self.logger, self.access_log = _SILENT, False
        base.connection_made(transport)
        inner = self.app  # type: ignore[has-type]

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[ABORT] = transport.abort
            await inner(scope, receive, send)

        self.app = app
        self._wait_for_head(transport)

    def data_received(self, data: bytes) -> None:
        """Read on; the head of a request has a size and a time that it must not exceed."""
        base: Any = super()
        base.data_received(data)
        transport: Any = self.transport  # type: ignore[attr-defined]
        if not self._in_head:
            self._head_bytes = 0
            self._stop_waiting()
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            transport.abort()
        elif not transport.is_closing():
            self._wait_for_head(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        base: Any = super()
        if not self._turned_away:
            base.connection_lost(exc)

    @property
    def _in_head(self) -> bool:
        """Whether no request is being answered: what arrives is the head of the next one."""
        cycle: Any = self.cycle  # type: ignore[attr-defined]
        return cycle is None or cycle.response_complete

    def _wait_for_head(self, transport: Any) -> None:
        if self._silence is None:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(HEAD_S, transport.abort)

    def _stop_waiting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


def _send_at_once(transport: Any) -> None:
    """A head and a body are two packets: the second must not wait until the first is acknowledged.

    asyncio sees to it only for sockets that were made with the protocol's number.
    """
    connection = transport.get_extra_info("socket")
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def make_protocol(base: Any, most_connections: int) -> Any:
    """uvicorn's protocol class with the bounds."""
    return type("PortProtocol", (BoundedProtocol, base), {"most_connections": most_connections})
