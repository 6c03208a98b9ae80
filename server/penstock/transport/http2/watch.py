"""When a connection is pinged, retired or given up: rules on the time alone, one `ConnectionWatch`
for each connection, all of them looked at by one timer.
"""

import random
from dataclasses import dataclass
from enum import Enum

from penstock.transport.http2.options import MS, Http2Options, S

_NEVER = 1 << 63
_PINGS_APART_NS = 60 * S
"""Between keepalive pings beyond the number that is allowed without data."""
_IDLE_PING_APART_NS = 7200 * S
"""Between pings of a client without calls, as gRPC has it."""
JITTER = 0.1
LOOKS = 4
"""How often a watch is looked at within the shortest time that it measures."""
MIN_PERIOD_NS, MAX_PERIOD_NS = 10 * MS, 1 * S


class Action(Enum):
    """What is to be done with a connection now."""

    NOTHING = "nothing"
    PING = "ping"
    RETIRE = "retire"
    """No new calls; those inside go on."""
    CUT = "cut"
    """End the calls inside and close."""
    DROP = "drop"
    """Nobody listens any more: away with it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in ns; `_NEVER` switches a rule off."""

    handshake_ns: int
    keepalive_ns: int
    keepalive_timeout_ns: int
    keepalive_without_calls: bool
    max_pings_without_data: int
    ping_interval_ns: int
    max_ping_strikes: int
    idle_ns: int
    age_ns: int
    age_grace_ns: int
    stall_ns: int

    @classmethod
    def of(cls, o: Http2Options) -> "Policy":
        """The policy that these options ask for."""
        return cls(
            handshake_ns=o.handshake_timeout_ms * MS,
            keepalive_ns=o.keepalive_time_ms * MS,
            keepalive_timeout_ns=o.keepalive_timeout_ms * MS,
            keepalive_without_calls=o.keepalive_permit_without_calls,
            max_pings_without_data=o.max_pings_without_data,
            ping_interval_ns=o.min_recv_ping_interval_without_data_ms * MS,
            max_ping_strikes=o.max_ping_strikes,
            idle_ns=o.max_connection_idle_ms * MS or _NEVER,
            age_ns=o.max_connection_age_ms * MS or _NEVER,
            age_grace_ns=o.max_connection_age_grace_ms * MS or _NEVER,
            stall_ns=int(o.stream_stall_s * S),
        )

    @property
    def period_ns(self) -> int:
        """How often watches are to be looked at."""
        shortest = min(
            self.handshake_ns,
            self.keepalive_ns,
            self.keepalive_timeout_ns,
            self.idle_ns,
            self.age_ns,
            self.age_grace_ns,
            self.stall_ns,
        )
        return min(max(shortest // LOOKS, MIN_PERIOD_NS), MAX_PERIOD_NS)


class ConnectionWatch:
    """The clocks of one connection. Times are given, never asked for."""

    __slots__ = (
        "_age_ns",
        "_idle_mark",
        "_idle_since_ns",
        "_last_ping_ns",
        "_made_ns",
        "_pinged_ns",
        "_pings",
        "_policy",
        "_retired_ns",
        "_strikes",
        "why",
    )

    def __init__(self, policy: Policy, now_ns: int) -> None:
        self._policy = policy
        self._made_ns = now_ns
        # Connections that were made together must not be renewed together.
        self._age_ns = int(policy.age_ns * random.uniform(1 - JITTER, 1 + JITTER))
        self._retired_ns: int | None = None
        self._pinged_ns: int | None = None
        self._last_ping_ns = -_NEVER
        self._pings = 0
        self._strikes = 0
        self._idle_mark: object = None
        self._idle_since_ns = now_ns
        self.why = ""

    def look(
        self, now_ns: int, *, spoke: bool, heard_ns: int, calls: int, mark: object, sent: bool
    ) -> Action:
        """What is to be done now; `why` says for which rule.

        `spoke`: the handshake is over; `heard_ns`: when bytes last came; `calls`: how many are
        open; `mark`: changes whenever a call begins; `sent`: an answer left since this or `pinged`
        was last asked.
        """
        policy = self._policy
        if not spoke:
            late = now_ns - self._made_ns >= policy.handshake_ns
            return self._because("handshake_timeout", Action.DROP) if late else Action.NOTHING
        if self._retired_ns is not None:
            if now_ns - self._retired_ns >= policy.age_grace_ns:
                return self._because("max_age_grace", Action.CUT)
        elif now_ns - self._made_ns >= self._age_ns:
            return self._retire("max_age", now_ns)
        elif self._is_idle(now_ns, calls, mark):
            return self._retire("max_idle", now_ns)
        return self._keepalive(now_ns, heard_ns, calls, sent)

    def pinged(self, now_ns: int, *, calls: int, sent: bool) -> bool:
        """The client sent a ping; whether it sends too many. `sent` as for `look`."""
        policy = self._policy
        if sent:
            self._forgive()
        alone = calls == 0 and not policy.keepalive_without_calls
        apart = _IDLE_PING_APART_NS if alone else policy.ping_interval_ns
        early = now_ns - self._last_ping_ns < apart
        self._last_ping_ns = now_ns
        self._strikes += early
        return 0 < policy.max_ping_strikes < self._strikes

    def acknowledged(self) -> None:
        """The client answered the keepalive ping."""
        self._pinged_ns = None

    def _forgive(self) -> None:
        """An answer left: pings on both sides are counted anew."""
        self._pings = self._strikes = 0
        self._last_ping_ns = -_NEVER

    def _because(self, why: str, action: Action) -> Action:
        self.why = why
        return action

    def _retire(self, why: str, now_ns: int) -> Action:
        self._retired_ns = now_ns
        return self._because(why, Action.RETIRE)

    def _is_idle(self, now_ns: int, calls: int, mark: object) -> bool:
        if calls or mark != self._idle_mark:
            self._idle_mark, self._idle_since_ns = mark, now_ns
        return now_ns - self._idle_since_ns >= self._policy.idle_ns

    def _keepalive(self, now_ns: int, heard_ns: int, calls: int, sent: bool) -> Action:
        policy = self._policy
        if sent:
            self._forgive()
        if self._pinged_ns is not None:
            if heard_ns > self._pinged_ns:
                # Any byte is a sign of life.
                self._pinged_ns = None
            elif now_ns - self._pinged_ns >= policy.keepalive_timeout_ns:
                return self._because("keepalive_timeout", Action.DROP)
            else:
                return Action.NOTHING
        if not calls and not policy.keepalive_without_calls:
            return Action.NOTHING
        apart = policy.keepalive_ns
        if 0 < policy.max_pings_without_data <= self._pings:
            apart = max(apart, _PINGS_APART_NS)
        if now_ns - heard_ns < apart:
            return Action.NOTHING
        self._pinged_ns = now_ns
        self._pings += 1
        return self._because("keepalive", Action.PING)
