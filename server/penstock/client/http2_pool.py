"""The connections of one channel, and which of them a call takes. Lives on one loop.

A single address is connected to when the first call needs it. Several addresses, or a name that may
stand for several, are all connected to, and calls go round those that say they serve.
"""

import asyncio
import ssl
import time
from collections import deque
from typing import Any

from penstock.client.channel import ChannelSettings
from penstock.client.errors import InferenceError
from penstock.client.http2_exchange import Exchange
from penstock.client.http2_status import cancelled, unavailable
from penstock.client.http2_subchannel import Subchannel, SubchannelSettings
from penstock.client.http2_targets import Endpoint, Target, resolve, targets_of, why_not
from penstock.transport.http2.deadlines import DeadlineWheel
from penstock_runtime.errors import Status

_NS = 1_000_000_000
_RESOLVE_AGAIN_S = 5.0


class ConnectionPool:
    """Starts exchanges on connections; those that find none wait, or fail if there is no hope."""

    def __init__(self, settings: ChannelSettings, context: ssl.SSLContext | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._targets = targets_of(settings.addresses)
        self._shared = SubchannelSettings(
            context,
            "" if settings.tls is None else settings.tls.server_name,
            settings.compression,
            settings.keepalive_s,
            eager=len(self._targets) > 1 or any(target.many for target in self._targets),
        )
        self._subchannels: list[Subchannel] = []
        self._left: list[Subchannel] = []
        """Where names do not lead any more, but calls may still be open."""
        self._turn = 0
        self._waiting: deque[Exchange] = deque()
        self._wheel = DeadlineWheel(self._arm)
        self._wheel_timer: asyncio.TimerHandle | None = None
        self._resolution: asyncio.Task[None] | None = None
        self._resolve_not_before = 0.0
        self._unknown = ""
        self._closed = False
        if not any(target.many for target in self._targets):
            self._use([target.endpoint for target in self._targets])

    # -- calls -----------------------------------------------------------------------------------

    def start(self, exchange: Exchange) -> None:
        """Send a call, now or as soon as a connection has room for it."""
        if self._closed:
            exchange.finish(cancelled("the channel is closed"))
            return
        if exchange.done:
            return
        if exchange.deadline_ns is not None:
            self._wheel.add(exchange, exchange.deadline_ns, time.monotonic_ns())
        self._place(exchange)

    def again(self, exchange: Exchange) -> None:
        """Send a call anew that a server did not look at, if it may be sent again at all."""
        if exchange.done:
            return
        exchange.link = exchange.stream = None
        if exchange.replayable and not self._closed:
            # Not at once: the connection that gave it back is not out of the way yet.
            self._waiting.append(exchange)
            self._loop.call_soon(self.changed)
        else:
            exchange.finish(unavailable("the server did not take the call"))

    def _place(self, exchange: Exchange) -> None:
        subchannel = self._pick()
        if subchannel is not None and subchannel.link is not None:
            subchannel.link.start(exchange)
        else:
            self._waiting.append(exchange)
            self._connect()
            self._give_up()

    def _pick(self) -> Subchannel | None:
        subchannels = self._subchannels
        for _ in subchannels:
            self._turn = (self._turn + 1) % len(subchannels)
            link = subchannels[self._turn].link
            if link is not None and link.room > 0:
                return subchannels[self._turn]
        return None

    # -- what endpoints tell ---------------------------------------------------------------------

    def changed(self) -> None:
        """Calls that wait may find a connection now, or have to give up."""
        waiting = self._waiting
        while waiting:
            if waiting[0].done:
                waiting.popleft()
                continue
            subchannel = self._pick()
            if subchannel is None or subchannel.link is None:
                self._connect()
                self._give_up()
                return
            subchannel.link.start(waiting.popleft())

    def _connect(self) -> None:
        for subchannel in self._subchannels:
            subchannel.connect()
        if not self._subchannels:
            self._resolve()

    def _give_up(self) -> None:
        """Without any hope those who do not want to wait for a server learn why."""
        if not all(subchannel.hopeless for subchannel in self._subchannels):
            return
        if not self._subchannels and not self._unknown:
            return
        waiting = list(self._waiting)
        self._waiting.clear()
        self._waiting.extend(each for each in waiting if each.wait and not each.done)
        text = f"failed to connect to all addresses; last error: {self._last_error}"
        for exchange in waiting:
            if not exchange.wait:
                exchange.finish(unavailable(text))

    @property
    def _last_error(self) -> str:
        errors = [subchannel.error for subchannel in self._subchannels if subchannel.error]
        return self._unknown or (errors[-1] if errors else "")

    # -- names -----------------------------------------------------------------------------------

    def lost(self) -> None:
        """A connection was lost or could not be made: names may stand for others now."""
        if any(target.many for target in self._targets) and not self._closed:
            self._resolve()

    def _resolve(self) -> None:
        if self._resolution is None:
            delay_s = max(self._resolve_not_before - self._loop.time(), 0)
            self._resolution = self._loop.create_task(self._look_up(delay_s))

    async def _look_up(self, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        self._resolve_not_before = self._loop.time() + _RESOLVE_AGAIN_S
        self._unknown = ""
        found: dict[Endpoint, None] = {}
        for target in self._targets:
            found.update(dict.fromkeys(await self._known(target)))
        self._resolution = None
        if found:
            self._use(list(found))
        self.changed()

    async def _known(self, target: Target) -> tuple[Endpoint, ...]:
        try:
            return await resolve(target)
        except OSError as error:
            self._unknown = f"DNS resolution failed for {target.endpoint}: {error}"
        except ValueError as error:
            self._unknown = why_not(target.endpoint, error)
        return ()

    def _use(self, endpoints: list[Endpoint]) -> None:
        """Keep what is still there, leave what is not, and open what is new."""
        known = {subchannel.endpoint: subchannel for subchannel in self._subchannels}
        self._left = [subchannel for subchannel in self._left if subchannel.connections]
        for endpoint, subchannel in known.items():
            if endpoint not in endpoints:
                subchannel.leave()
                self._left.append(subchannel)
        self._subchannels = [
            known.get(endpoint) or Subchannel(endpoint, self, self._shared)
            for endpoint in endpoints
        ]
        if self._shared.eager:
            self._connect()

    # -- deadlines -------------------------------------------------------------------------------

    def _arm(self, at_ns: int) -> None:
        if self._wheel_timer is not None:
            self._wheel_timer.cancel()
        after_s = max(at_ns - time.monotonic_ns(), 0) / _NS
        self._wheel_timer = self._loop.call_later(after_s, self._expire)

    def _expire(self) -> None:
        self._wheel_timer = None
        for exchange in self._wheel.fire(time.monotonic_ns()):
            exchange.abandon(self._too_late(exchange))

    def _too_late(self, exchange: Exchange) -> InferenceError:
        text = "the deadline passed"
        if exchange.stream is None and self._last_error:
            text = f"{text} before there was a connection; last error: {self._last_error}"
        return InferenceError(Status.DEADLINE_EXCEEDED, text)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End every call as CANCELLED and close every connection."""
        self._closed = True
        if self._resolution is not None:
            self._resolution.cancel()
        if self._wheel_timer is not None:
            self._wheel_timer.cancel()
        subchannels = (*self._subchannels, *self._left)
        open_calls: list[Any] = [call for sub in subchannels for call in sub.calls()]
        for exchange in (*self._waiting, *open_calls):
            exchange.abandon(cancelled("the channel was closed"))
        self._waiting.clear()
        for subchannel in subchannels:
            subchannel.close()

    async def closed(self) -> None:
        """Wait until every socket is closed."""
        subchannels = (*self._subchannels, *self._left)
        await asyncio.gather(*(subchannel.closed() for subchannel in subchannels))

    def __repr__(self) -> str:
        return f"<ConnectionPool {self._subchannels} {len(self._waiting)} waiting>"
