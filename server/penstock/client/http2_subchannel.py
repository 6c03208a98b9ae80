"""One endpoint of a channel: connected when it is needed, again after a loss, and not too often."""

import asyncio
import random
import socket
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from penstock.client.http2_exchange import Exchange
from penstock.client.http2_health import HealthWatch
from penstock.client.http2_link import Link, LinkSettings
from penstock.client.http2_status import cancelled
from penstock.client.http2_targets import Endpoint, why_not
from penstock.client.http2_tls import check_protocol

FIRST_BACKOFF_S, MOST_BACKOFF_S, GROWTH, JITTER = 0.1, 5.0, 1.6, 0.2
CONNECT_S = 20.0
_WATCH_AGAIN_S = 1.0
_CLOSE_S = 1.0


class State(Enum):
    """Where an endpoint stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    FAILED = "failed"
    """The last attempt failed; the next may begin after a while."""
    CLOSED = "closed"


class Owner(Protocol):
    """The channel that the endpoint belongs to."""

    def changed(self) -> None:
        """Calls that wait may find a connection now, or have to give up."""

    def again(self, exchange: Exchange) -> None:
        """Send a call anew that a server did not look at."""

    def lost(self) -> None:
        """A connection was lost or could not be made: names may stand for others now."""


@dataclass(frozen=True, slots=True)
class SubchannelSettings:
    """What the endpoints of a channel share. `eager` ones connect by themselves, and have their
    health watched.
    """

    context: ssl.SSLContext | None = None
    server_name: str = ""
    encoding: str = ""
    keepalive_s: float | None = None
    eager: bool = False


class Subchannel:
    """One endpoint. `link` is where calls may go: None unless connected, and serving if watched;
    `error` is why there is none.
    """

    def __init__(self, endpoint: Endpoint, owner: Owner, settings: SubchannelSettings) -> None:
        self.endpoint = endpoint
        self.state = State.IDLE
        self.link: Link | None = None
        self.error = ""
        self.serving: bool | None = None
        """None while nobody said."""
        self._owner = owner
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._links: set[Link] = set()
        self._current: Link | None = None
        self._watch: HealthWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._not_before = 0.0

    @property
    def hopeless(self) -> bool:
        """Whether there is no reason to wait: it cannot be reached, or does not serve."""
        return self.state is State.FAILED or (
            self.state is State.READY and self.link is None and self.serving is False
        )

    # -- connecting ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect, unless that is under way, done or too early."""
        if self.state is not State.IDLE:
            return
        self.state = State.CONNECTING
        self._later(self._not_before - self._loop.time(), self._begin)

    def _later(self, after_s: float, action: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(after_s, 0), action)

    def _begin(self) -> None:
        base = min(FIRST_BACKOFF_S * GROWTH**self._failures, MOST_BACKOFF_S)
        spread = 1 + JITTER * (2 * random.random() - 1)
        self._not_before = self._loop.time() + base * spread
        self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        settings, link = self._settings, self._new_link()
        try:
            async with asyncio.timeout(CONNECT_S):
                transport = await self._open(link)
                if settings.context is not None:
                    check_protocol(transport.get_extra_info("ssl_object"))
                await link.established
        except (OSError, ValueError) as error:
            text = self._why(error)
            link.close(text)
            self._failed(text)
        except asyncio.CancelledError:
            link.close("the channel was closed")
            raise
        else:
            self._ready(link)

    def _why(self, error: OSError | ValueError) -> str:
        if isinstance(error, TimeoutError) and not error.args:
            return f"{self.endpoint}: no answer within {CONNECT_S:g} s"
        return why_not(self.endpoint, error, secure=self._settings.context is not None)

    def _new_link(self) -> Link:
        settings, endpoint = self._settings, self.endpoint
        link_settings = LinkSettings(
            settings.server_name or endpoint.authority,
            "http" if settings.context is None else "https",
            settings.encoding,
            settings.keepalive_s,
        )
        link = Link(self, link_settings)
        self._links.add(link)
        return link

    async def _open(self, link: Link) -> asyncio.BaseTransport:
        loop, endpoint, context = self._loop, self.endpoint, self._settings.context
        name = None if context is None else self._settings.server_name or endpoint.server_name
        if endpoint.path:
            opened = await loop.create_unix_connection(
                lambda: link, sock=await self._unix(), ssl=context, server_hostname=name
            )
        else:
            opened = await loop.create_connection(
                lambda: link, endpoint.host, endpoint.port, ssl=context, server_hostname=name
            )
        return opened[0]

    async def _unix(self) -> socket.socket:
        # Made here, since uvloop refuses the names of abstract ones.
        made = socket.socket(socket.AF_UNIX)
        try:
            made.setblocking(False)
            await self._loop.sock_connect(made, self.endpoint.path)
        except BaseException:
            made.close()
            raise
        return made

    def _failed(self, text: str) -> None:
        self.error = text
        self.state = State.FAILED
        self._failures += 1
        self._later(self._not_before - self._loop.time(), self._due)
        self._owner.lost()
        self._owner.changed()

    def _due(self) -> None:
        self.state = State.IDLE
        if self._settings.eager:
            self.connect()
        self._owner.changed()

    # -- connected -------------------------------------------------------------------------------

    def _ready(self, link: Link) -> None:
        if link.leaving:
            reason = link.reason or "the server closed the connection at once"
            self._failed(f"{self.endpoint}: {reason}")
            return
        self.state, self._current, self.error = State.READY, link, ""
        self._failures = 0
        if self._settings.eager:
            self._begin_watch()
        else:
            self.link = link
            self._owner.changed()

    def _begin_watch(self) -> None:
        link, self._watch = self._current, None
        # Without room it begins when there is some, in `link_read`.
        if link is not None and link.room > 0:
            self._watch = HealthWatch(lambda serving: self._heard(link, serving))
            link.start(self._watch)

    def _heard(self, link: Link, serving: bool | None) -> None:
        if link is not self._current:
            return
        self.serving = bool(serving)
        self.link = link if serving else None
        self.error = "" if serving else f"{self.endpoint}: not serving"
        if serving is None:
            self._later(_WATCH_AGAIN_S, self._begin_watch)
        self._owner.changed()

    def link_over(self, link: Link) -> None:
        """The link takes no more calls."""
        if link is not self._current:
            return
        self._current = self.link = self.serving = None
        if self._watch is not None:
            self._watch.abandon(cancelled())
            self._watch = None
        self.state = State.IDLE
        if self._settings.eager:
            self.connect()
        self._owner.lost()
        self._owner.changed()

    def link_gone(self, link: Link) -> None:
        """The link's socket is closed."""
        self._links.discard(link)

    def link_read(self) -> None:
        """Calls may have ended: there may be room for others."""
        if self._watch is None and self._settings.eager:
            self._begin_watch()
        self._owner.changed()

    def again(self, exchange: Exchange) -> None:
        """Send a call anew that the server did not look at."""
        self._owner.again(exchange)

    # -- the end ---------------------------------------------------------------------------------

    def leave(self) -> None:
        """Connect no more, and let open calls end."""
        self._stop()
        for link in list(self._links):
            link.leave()

    def close(self) -> None:
        """Connect no more, and close every connection."""
        self._stop()
        for link in list(self._links):
            link.close("the channel was closed")

    @property
    def connections(self) -> int:
        """How many there are, those that are being left among them."""
        return len(self._links)

    def calls(self) -> list[Exchange]:
        """The calls that are open here."""
        return [exchange for link in self._links for exchange in link.calls()]

    async def closed(self) -> None:
        """Wait until the sockets are closed; those that take too long are cut off."""
        links = list(self._links)
        if links:
            await asyncio.wait([link.gone for link in links], timeout=_CLOSE_S)
        for link in links:
            link.abort()

    def _stop(self) -> None:
        self.state, self._current, self.link = State.CLOSED, None, None
        if self._watch is not None:
            self._watch.abandon(cancelled())
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def __repr__(self) -> str:
        return f"<Subchannel {self.endpoint} {self.state.value} {self.connections} connections>"
