"""The way down: not ready, but serving; then nothing new; then nothing inside; then the end.

Nothing that was accepted is cut off, unless time runs out or someone insists.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.interceptors import Gate

_log = logging.getLogger("penstock.drain")

# By then nothing accepted is inside: this is for calls that are being refused.
STOP_GRACE_S = 1.0

# How often it is looked whether the sequences that run have had their END, and the part of the time
# that they may take: the calls that are inside when the gate closes need some of it too.
SEQUENCE_POLL_S, SEQUENCE_SHARE = 0.02, 0.8
# Whoever just got an answer may call again, and the gate's refusal can be retried where that of a
# transport that stops (CANCELLED) is not: it stops when callers have been quiet, within reason.
QUIET_S, QUIET_AT_MOST_S = 0.1, 1.0


@dataclass(slots=True)
class StopRequest:
    """That the server shall stop, and how: asked once it drains, asked twice it hurries.

    `delay_s` is how long to go on serving first; `code` the exit code; `reason` is for the log.
    """

    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0
    code: int = 0
    reason: str = ""

    def ask(self, reason: str, delay_s: float = 0.0, code: int = 0) -> None:
        """Ask for the end, on the loop."""
        if self.wanted.is_set():
            _log.warning("asked again to stop (%s): what is in flight is not waited for", reason)
            self.hurry.set()
            return
        self.reason, self.delay_s, self.code = reason, delay_s, code
        self.wanted.set()


class Probes(Protocol):
    """What tells load balancers to stay away."""

    def drain(self) -> None:
        """From now on not ready."""

    def close(self) -> None:
        """End the calls that would go on for ever."""


class Core(Protocol):
    """What executes."""

    @property
    def open_sequences(self) -> int:
        """Sequences whose callers have not sent the last request yet."""

    def begin_shutdown(self) -> None:
        """From now on not ready, but serving."""

    def begin_drain(self) -> None:
        """From now on no sequence starts; those that run may go on."""


class Stoppable(Protocol):
    """The transport."""

    async def stop(self, grace_s: float) -> None:
        """End; what is inside may go on for `grace_s`."""


class Ports:
    """Several of them as one."""

    def __init__(self, ports: Sequence[Stoppable]) -> None:
        self._ports = ports

    async def stop(self, grace_s: float) -> None:
        """End all of them at the same time."""
        await asyncio.gather(*(port.stop(grace_s) for port in self._ports))


async def drain(
    request: StopRequest,
    *,
    core: Core,
    probes: Probes,
    gate: Gate,
    transport: Stoppable,
    exit_timeout_s: float,
) -> bool:
    """Take the server out of traffic; whether everything that was accepted has been answered."""
    started = time.monotonic()
    _log.info("stopping (%s), %d calls inside", request.reason, gate.inflight)
    core.begin_shutdown()
    probes.drain()
    if request.delay_s > 0:
        await _wait(request.hurry, request.delay_s)
    core.begin_drain()
    begun = time.monotonic()
    deadline, until = begun + exit_timeout_s, begun + exit_timeout_s * SEQUENCE_SHARE
    # Each request of a sequence is a call of its own, which a closed gate would refuse.
    while core.open_sequences and not request.hurry.is_set() and time.monotonic() < until:
        await _wait(request.hurry, SEQUENCE_POLL_S)
    gate.close()
    clean = await _until_idle(gate, request.hurry, max(deadline - time.monotonic(), 0.0))
    if not clean:
        _log.warning("%d calls are cut off", gate.inflight)
    await _until_quiet(gate, request.hurry)
    probes.close()
    # A transport's own stop may cut a call at the very instant; by now there is none to cut.
    await transport.stop(STOP_GRACE_S)
    _log.info("no call is inside after %.1f s", time.monotonic() - started)
    return clean


async def _until_idle(gate: Gate, hurry: asyncio.Event, timeout_s: float) -> bool:
    idle = asyncio.ensure_future(gate.idle(timeout_s))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait((idle, hurried), return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not idle.done():
        idle.cancel()
        return gate.inflight == 0
    return idle.result()


async def _until_quiet(gate: Gate, hurry: asyncio.Event) -> None:
    until = time.monotonic() + QUIET_AT_MOST_S
    while not hurry.is_set() and time.monotonic() < until:
        refused = gate.refused
        await _wait(hurry, QUIET_S)
        if gate.refused == refused:
            return


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
