"""What the protocol core tells of a connection, passed on to the calls and to whoever owns it."""

import asyncio
import logging
from typing import Any, Protocol

from penstock.client.errors import InferenceError
from penstock.client.http2_exchange import Exchange
from penstock.client.http2_status import broken, error_of_reset, error_of_status, unavailable
from penstock.transport.http2.client_connection import ClientConnection
from penstock.transport.http2.client_events import Answered, Responded, Trailers, Unprocessed
from penstock.transport.http2.events import (
    Event,
    GoAway,
    Lost,
    Message,
    Reset,
    Room,
    SettingsChanged,
)
from penstock_runtime.errors import Status

logger = logging.getLogger("penstock.client")


class LinkOwner(Protocol):
    """Whoever opened the link, and gives it calls."""

    def link_over(self, link: Any) -> None:
        """The link takes no more calls; those that are open may still end well."""

    def link_gone(self, link: Any) -> None:
        """The socket is closed."""

    def link_read(self) -> None:
        """Calls may have ended: there may be room for others."""

    def again(self, exchange: Exchange) -> None:
        """Send a call anew that the server did not look at."""


class LinkEvents:
    """The half of a link that listens. `leaving`: it takes no more calls.

    `established` is done once the server's settings are here, and fails with ConnectionError if
    they never come; `reason` says why the connection ended.
    """

    def __init__(self, owner: LinkOwner) -> None:
        self.connection = ClientConnection()
        self.leaving = False
        self.reason = ""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = self._loop.create_future()

    def leave(self) -> None:
        """Take no more calls, and close once those that are open have ended."""
        raise NotImplementedError

    def close(self, reason: str) -> None:
        """Say goodbye and close the socket."""
        raise NotImplementedError

    def _over(self) -> None:
        if not self.leaving:
            self.leaving = True
            self._owner.link_over(self)

    def _never_established(self) -> None:
        if not self.established.done():
            self.established.set_exception(ConnectionError(self.reason))
            # Nobody waits for it any more where connecting itself has failed.
            self.established.exception()

    def _take(self, event: Event) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is None:
            return
        try:
            handler(self, event)
        except Exception as defect:
            # The events behind it belong to other calls, which must not wait in vain.
            logger.exception("a defect of ours broke a call")
            if hasattr(event, "stream"):
                text = f"the client failed to handle what the server sent: {defect!r}"
                _call(event).abandon(InferenceError(Status.INTERNAL, text))

    def _answered(self, event: Answered) -> None:
        _call(event).answered(event.message)

    def _message(self, event: Message) -> None:
        _call(event).message(event.message)

    def _responded(self, event: Responded) -> None:
        _call(event).responded(event.head.metadata)

    def _trailers(self, event: Trailers) -> None:
        exchange = _call(event)
        exchange.trailing = event.metadata
        exchange.finish(error_of_status(event.status, event.text, event.metadata))

    def _reset(self, event: Reset) -> None:
        fault = self.connection.error
        if fault is not None:
            self.reason = self.reason or broken(fault)
        reason = self.reason
        _call(event).finish(unavailable(reason) if reason else error_of_reset(event.code))

    def _unprocessed(self, event: Unprocessed) -> None:
        self._owner.again(_call(event))

    def _room(self, event: Room) -> None:
        _call(event).room()

    def _settings_changed(self, event: SettingsChanged) -> None:
        del event
        if not self.established.done():
            self.established.set_result(None)

    def _goaway(self, event: GoAway) -> None:
        del event
        self.leave()

    def _lost(self, event: Lost) -> None:
        if event.error.__cause__ is not None:
            logger.error("a defect of ours broke a connection", exc_info=event.error.__cause__)
        self.close(broken(event.error))


def _call(event: Any) -> Exchange:
    exchange: Exchange = event.stream.tag
    return exchange


_HANDLERS: dict[type[Event], Any] = {
    Answered: LinkEvents._answered,
    Message: LinkEvents._message,
    Responded: LinkEvents._responded,
    Trailers: LinkEvents._trailers,
    Reset: LinkEvents._reset,
    Unprocessed: LinkEvents._unprocessed,
    Room: LinkEvents._room,
    SettingsChanged: LinkEvents._settings_changed,
    GoAway: LinkEvents._goaway,
    Lost: LinkEvents._lost,
}
