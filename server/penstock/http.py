"""The metrics and health port: a few GET paths over plain HTTP, in a thread and loop of their own.

A scrape that stalls, or a flood of them, costs this thread its time-outs and the server nothing;
probes are answered even while the main loop is busy.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from penstock_runtime.errors import FailedPrecondition
from penstock_runtime.observability.metrics import CONTENT_TYPE

MAX_CONNECTIONS = 64
MAX_HEAD_BYTES = 8192
TIMEOUT_S = 5.0
ACCEPT_PAUSE_S = 1.0
PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"
NO_DOCUMENTS: Mapping[str, Callable[[], bytes]] = MappingProxyType({})

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    status: int
    body: bytes
    content_type: str = PLAIN

    def encode(self) -> bytes:
        """The bytes of the response; the connection ends with it."""
        allow = "Allow: GET\r\n" if self.status == 405 else ""
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            f"{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + self.body


class MetricsServer:
    """Serves /metrics, /v2/health/live, /v2/health/ready and /health (which is live).

    `render`, `live` and `ready` are called in this server's thread, as are the makers of further
    `documents` (JSON, by their paths). Port 0 takes any free one. A
    server starts once.
    """

    def __init__(
        self,
        host: str,
        port: int,
        render: Callable[[], bytes],
        live: Callable[[], bool],
        ready: Callable[[], bool],
        timeout_s: float = TIMEOUT_S,
        documents: Mapping[str, Callable[[], bytes]] = NO_DOCUMENTS,
    ) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._open: dict[socket.socket, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._paths: dict[str, Callable[[], Answer]] = {
            "/metrics": lambda: Answer(200, render(), CONTENT_TYPE),
            "/v2/health/live": lambda: _health(live()),
            "/v2/health/ready": lambda: _health(ready()),
            "/health": lambda: _health(live()),
            **{path: partial(_document, make) for path, make in documents.items()},
        }

    def start(self) -> int:
        """Open the port and serve it; the port's number. A port taken is a FailedPrecondition."""
        listener = self._listen()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop, listener), name="penstock-metrics", daemon=True
        )
        self._thread.start()
        return int(listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def stop(self) -> None:
        """Close the port and end the thread; connections that are open are cut."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop = self._thread = None

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family, backlog=64)
        except OSError as error:
            raise FailedPrecondition(
                f"metrics port {self._port} of {self._host or 'all addresses'} cannot be opened:"
                f" {error.strerror}"
            ) from error

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop, listener))
        finally:
            loop.close()

    # Sockets and add_reader rather than asyncio's own server: that one leaves a connection open
    # which it accepts while it is being closed.

    async def _serve(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop.add_reader(listener, self._accept, loop, listener)
        await self._stopping.wait()
        loop.remove_reader(listener)
        listener.close()
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A task that is cancelled before its first step does not come to tidy up after itself.
        for connection in self._open:
            connection.close()
        self._open.clear()

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: the listener stays readable, so look away a while.
            _log.warning("the metrics port cannot accept: %s", error.strerror)
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_PAUSE_S, self._resume, loop, listener)
            return
        if len(self._open) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        self._open[connection] = loop.create_task(self._hold(loop, connection))

    def _resume(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        if not self._stopping.is_set():
            loop.add_reader(listener, self._accept, loop, listener)

    async def _hold(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                head = await _read_head(loop, connection)
                if head:
                    await loop.sock_sendall(connection, self._answer(head).encode())
        except (TimeoutError, OSError):
            # The other side is slow or gone: whatever it has not read is of no use to it.
            return
        finally:
            self._open.pop(connection, None)
            connection.close()

    def _answer(self, head: bytes) -> Answer:
        if len(head) > MAX_HEAD_BYTES:
            return Answer(431, f"a request may have {MAX_HEAD_BYTES} bytes of headers\n".encode())
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return Answer(400, b"expected an HTTP/1.1 request\n")
        method, target, _ = words
        page = self._paths.get(target.partition("?")[0])
        if page is None:
            return Answer(404, f"expected one of {', '.join(self._paths)}\n".encode())
        if method != "GET":
            return Answer(405, b"expected GET\n")
        try:
            return page()
        except Exception:
            _log.exception("the answer to GET %s failed", target)
            return Answer(500, b"the server failed to answer; its log says why\n")

    def __repr__(self) -> str:
        return f"MetricsServer({self._host}:{self._port}, connections={self.connections})"


async def _read_head(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """The request up to its empty line, or as much of it as is too much; b"" if it has no end."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD_BYTES:
        piece = await loop.sock_recv(connection, 4096)
        if not piece:
            return b""
        head += piece
    return head


def _document(make: Callable[[], bytes]) -> Answer:
    return Answer(200, make(), JSON)


def _health(good: bool) -> Answer:
    return Answer(200, b"ok\n") if good else Answer(503, b"not ready\n")
