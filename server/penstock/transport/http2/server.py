"""The transport on HTTP/2 of our own: listens, and takes all of it down again in order."""

from collections.abc import Sequence
from dataclasses import replace

from penstock.transport.addresses import UNIX
from penstock.transport.base import Method
from penstock.transport.http2.figures import transport_families
from penstock.transport.http2.hub import Hub
from penstock.transport.http2.limits import Limits
from penstock.transport.http2.listener import Listener
from penstock.transport.http2.options import Http2Options
from penstock.transport.http2.sockets import listen, remove_socket_files, spare_descriptors
from penstock_runtime.observability.metrics import Family

LAST_WORDS_S = 1.0
"""How long what was said last may take to leave, and cancelled handlers to clean up."""


class Http2Transport:
    """HTTP/2 behind the seam. Lives on the loop that starts it."""

    def __init__(
        self, methods: Sequence[Method], options: Http2Options, limits: Limits | None = None
    ) -> None:
        self._methods = methods
        self._options = options
        self._limits = limits if limits is not None else _limits(options)
        self._hub: Hub | None = None
        self._listeners: list[Listener] = []
        self._addresses: list[str] = []

    async def start(self) -> Sequence[str]:
        """Bind every address and accept calls; the addresses with their real ports."""
        options = self._options
        context = options.tls.context() if options.tls is not None else None
        cap = options.max_connections or spare_descriptors()
        hub = self._hub = Hub(self._methods, options, self._limits, cap)
        try:
            for address in options.addresses:
                sockets, name = listen(address, reuse_port=options.reuse_port)
                self._addresses.append(name)
                self._listeners += [
                    Listener(hub, one, context, options.handshake_timeout_ms / 1000)
                    for one in sockets
                ]
        except BaseException:
            await self.stop(0)
            raise
        return tuple(self._addresses)

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, let what is inside go on for `grace_s`, then cut it off."""
        hub, listeners = self._hub, self._listeners
        self._listeners = []
        if hub is None or hub.stopping:
            return
        # While we still listen they are certainly ours: a successor may bind the path from then on.
        remove_socket_files([name for name in self._addresses if name.startswith(UNIX)])
        for listener in listeners:
            listener.close()
        await hub.turn_away()
        if grace_s > 0:
            for connection in tuple(hub.connections):
                connection.retire()
            await hub.quiet(grace_s)
        for connection in tuple(hub.connections):
            connection.cut()
        await hub.quiet(LAST_WORDS_S)
        for connection in tuple(hub.connections):
            connection.abort()
        await hub.finished(LAST_WORDS_S)
        hub.close()

    def families(self) -> Sequence[Family]:
        """What a scrape learns of the transport."""
        return transport_families(self._hub) if self._hub is not None else ()

    def __repr__(self) -> str:
        hub = self._hub
        return f"<Http2Transport {len(hub.connections) if hub is not None else 0} connections>"


def _limits(options: Http2Options) -> Limits:
    limits = Limits(message_size=options.max_message_bytes)
    calls = options.max_concurrent_streams
    return replace(limits, max_concurrent_streams=calls) if calls else limits
