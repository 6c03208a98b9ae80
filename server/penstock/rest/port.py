"""The HTTP port: uvicorn's protocol on this server's own loop, without uvicorn's server around it,
which would bring signal handlers, a clock and a log of its own.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from penstock.rest.protocol import make_protocol
from penstock.transport.http2.sockets import (
    listen,
    remove_socket_files,
    spare_descriptors,
)
from penstock_runtime.errors import FailedPrecondition

KEEP_ALIVE_S = 75
CLOSE_S = 1.0
"""How long a connection that is told to close may take before it is cut."""


@dataclass(frozen=True, slots=True)
class PortOptions:
    """Where to listen, and whether other processes may listen there too."""

    address: str
    reuse_port: bool = False


class HttpPort:
    """Serves an application. Lives on the loop; starts once."""

    def __init__(self, app: Any, options: PortOptions) -> None:
        self._options = options
        # Descriptors are for gRPC as well.
        most = max(spare_descriptors() // 2, 1)
        self._config = Config(
            app,
            http=make_protocol(AutoHTTPProtocol, most),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._state = ServerState()
        self._servers: list[asyncio.Server] = []

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._state.connections)

    async def start(self) -> str:
        """Bind and accept; the address with its real port, FailedPrecondition if it is not to be
        had.
        """
        self._config.load()
        sockets, address = _listen(self._options)
        loop = asyncio.get_running_loop()
        protocol: Any = self._config.http_protocol_class
        for listening in sockets:
            server = await loop.create_server(
                lambda: protocol(
                    config=self._config, server_state=self._state, app_state={}, _loop=loop
                ),
                sock=listening,
            )
            self._servers.append(server)
        return address

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more; what is being answered may go on for `grace_s`, then it is cut."""
        for server in self._servers:
            server.close()
        # Connections that were accepted just now are made in the loop's next turn.
        await asyncio.sleep(0)
        for connection in tuple(self._state.connections):
            connection.shutdown()
        await self._until_closed(grace_s)
        for task in tuple(self._state.tasks):
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(tuple(self._state.tasks), timeout=CLOSE_S)
        for connection in tuple(self._state.connections):
            transport: Any = connection.transport
            transport.abort()
        await self._until_closed(CLOSE_S)
        if self._servers:
            remove_socket_files((self._options.address,))
        self._servers.clear()

    async def _until_closed(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while (self._state.connections or self._state.tasks) and loop.time() < until:
            await asyncio.sleep(0.01)

    def __repr__(self) -> str:
        return f"<HttpPort {self._options.address}, {self.connections} connections>"


def _listen(options: PortOptions) -> tuple[list[socket.socket], str]:
    try:
        return listen(options.address, reuse_port=options.reuse_port)
    except FailedPrecondition as error:
        raise FailedPrecondition(error.message.replace("--grpc-port", "--http-port")) from None
