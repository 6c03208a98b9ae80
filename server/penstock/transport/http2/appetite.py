"""How much a socket must hold before it wakes us, while a large message comes in.

Nothing can overtake what is left of an open DATA frame, so waking for every segment of it brings
nothing but the cost: a system call, a turn of the loop and caches filled anew each time.
"""

import contextlib
import socket
import ssl
import sys
from typing import Any

LEAST_BYTES = 256 * 1024
"""What is left of a frame below this is not worth two system calls."""
MOST_BYTES = 2 * 1024 * 1024
"""Two thirds of what Linux lets a socket wait for by default, half of the 6 MiB of `tcp_rmem`."""

_ANY = 1


class Appetite:
    """Sets SO_RCVLOWAT of one connection. Where that means nothing, with TLS, without TCP or
    outside Linux, it does nothing.

    A peer that stops within a frame is not heard of until it goes on or leaves: whoever watches
    the time has to `calm` now and then, so that what came so far is seen.
    """

    __slots__ = ("_socket", "_waits_for")

    def __init__(self, transport: Any = None) -> None:
        """For a transport of asyncio or uvloop, or a socket; None: for nothing."""
        self._socket = _plain_tcp(transport)
        self._waits_for = _ANY

    def follow(self, left: int) -> None:
        """So many bytes are left of the frame that is open; 0 if none is, or none that is large."""
        wanted = min(left, MOST_BYTES) if left >= LEAST_BYTES else _ANY
        if wanted != self._waits_for and self._socket is not None:
            self._waits_for = wanted
            # The peer, or we, may have closed it meanwhile.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)

    def calm(self) -> None:
        """Be woken by anything, what is there already included."""
        self.follow(0)

    def __repr__(self) -> str:
        return f"<Appetite for {self._waits_for} bytes>"


def _plain_tcp(transport: Any) -> Any:
    if transport is None or sys.platform != "linux":
        return None
    if isinstance(transport, socket.socket):
        found, secure = transport, isinstance(transport, ssl.SSLSocket)
    else:
        found = transport.get_extra_info("socket")
        secure = transport.get_extra_info("ssl_object") is not None
    if found is None or secure or found.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return found
