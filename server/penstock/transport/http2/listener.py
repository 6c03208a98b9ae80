"""Takes connections off a listening socket, as many as there may be.

The loops have servers of their own; this one closes connections beyond the cap before any TLS
handshake, rests when descriptors run out instead of trying again at once, and leaves no handshake
behind when it stops.
"""

import asyncio
import errno
import logging
import socket
import ssl

from penstock.transport.http2.hub import Hub
from penstock.transport.http2.protocol import ServerProtocol

_log = logging.getLogger("penstock.transport")

BURST = 64
"""Connections that are accepted before the loop does something else."""
REST_S = 0.5
"""Pause after an error that only time can mend."""
_NO_CONNECTION = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH)


class Listener:
    """One listening socket. Lives on the loop."""

    def __init__(
        self, hub: Hub, listening: socket.socket, context: ssl.SSLContext | None, timeout_s: float
    ) -> None:
        self._hub = hub
        self._socket = listening
        self._context = context
        self._timeout_s = timeout_s if context is not None else None
        self._resting: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept nothing more."""
        if self._resting is not None:
            self._resting.cancel()
        else:
            self._hub.loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _listen(self) -> None:
        self._resting = None
        self._hub.loop.add_reader(self._socket.fileno(), self._ready)

    def _ready(self) -> None:
        hub = self._hub
        for _ in range(BURST):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_CONNECTION:
                    # It was one client's misfortune, before anyone here knew of it.
                    continue
                self._rest(error)
                return
            hub.counts["connections"] += 1
            if hub.is_full:
                hub.counts["too_many_connections"] += 1
                accepted.close()
            else:
                connection = ServerProtocol(hub)
                hub.arrive(connection, self._take(connection, accepted))

    def _rest(self, error: OSError) -> None:
        hub = self._hub
        if not hub.counts["accept_errors"]:
            _log.warning("connections cannot be accepted: %s", error.strerror)
        hub.counts["accept_errors"] += 1
        hub.loop.remove_reader(self._socket.fileno())
        self._resting = hub.loop.call_later(REST_S, self._listen)

    async def _take(self, connection: ServerProtocol, accepted: socket.socket) -> None:
        hub = self._hub
        try:
            accepted.setblocking(False)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await hub.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._timeout_s,
            )
        except (OSError, TimeoutError) as error:
            hub.counts["failed_handshakes"] += 1
            _log.debug("a connection ended in its handshake: %s", error)
            accepted.close()
        except asyncio.CancelledError:
            accepted.close()
            raise
