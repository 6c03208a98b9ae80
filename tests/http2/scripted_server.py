"""A server on the loopback that says what a test's script says, right or wrong."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.http2.frames import (
    ACK,
    END_STREAM,
    HEADER_SIZE,
    PREFACE,
    SETTINGS_ACK,
    Frame,
    Type,
    block,
    data,
    headers,
    message,
    settings,
    split,
)

TIMEOUT_S = 20.0
HEAD = block(((b":status", b"200"), (b"content-type", b"application/grpc")))
OK = block(((b"grpc-status", b"0"),))


class Peer:
    """One connection that a client made. Every read ends within `TIMEOUT_S`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        self.socket = connection
        self.seen: list[Frame] = []
        self._rest = b""

    def send(self, *chunks: bytes) -> None:
        """Send these bytes; a client that is gone is no error."""
        with contextlib.suppress(OSError):
            self.socket.sendall(b"".join(chunks))

    def greet(self, *pairs: tuple[int, int]) -> None:
        """Hear the preface, send these settings and acknowledge the client's."""
        while len(self._rest) < len(PREFACE):
            self._rest += self.socket.recv(65536)
        assert self._rest.startswith(PREFACE)
        self._rest = self._rest[len(PREFACE) :]
        self.send(settings(*pairs), SETTINGS_ACK)

    def read(self) -> Frame | None:
        """The next frame; None once the client is gone."""
        while True:
            frame = next(split(self._rest), None)
            if frame is not None:
                self._rest = self._rest[HEADER_SIZE + len(frame.payload) :]
                self.seen.append(frame)
                return frame
            try:
                more = self.socket.recv(1 << 20)
            except OSError:
                return None
            if not more:
                return None
            self._rest += more

    def wait(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Read until a frame that is wanted."""
        while (frame := self.read()) is not None:
            if wanted(frame):
                return frame
        raise AssertionError(f"the client left before the frame came; seen: {self.seen[-5:]}")

    def request(self) -> Frame:
        """Read until the head of a request."""
        return self.wait(lambda frame: frame.type == Type.HEADERS)

    def whole_request(self) -> int:
        """Read until a request has ended; its stream."""
        return self.wait(lambda frame: bool(frame.type < 2 and frame.flags & END_STREAM)).stream

    def answer(self, stream: int, body: bytes) -> None:
        """Answer a unary call with OK."""
        self.send(
            headers(stream, HEAD),
            data(stream, message(body)),
            headers(stream, OK, end=True),
        )

    def serve(self, body: bytes) -> None:
        """Answer every request in this way until the client leaves."""
        while (frame := self.read()) is not None:
            if frame.type < 2 and frame.flags & END_STREAM:
                self.answer(frame.stream, body)
            elif frame.type == Type.PING and not frame.flags & ACK:
                self.send(
                    bytes((0, 0, 8, Type.PING, ACK, 0, 0, 0, 0)),
                    frame.payload,
                )


Script = Callable[[Peer], None]


class ScriptedServer:
    """Runs the n-th script on the n-th connection, and the last one on all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.failures: list[BaseException] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._sockets.append(connection)
            thread = threading.Thread(target=self._run, args=(script, connection))
            self._threads.append(thread)
            thread.start()

    def _run(self, script: Script, connection: socket.socket) -> None:
        with connection:
            try:
                script(Peer(connection))
            except BaseException as error:
                self.failures.append(error)

    def close(self) -> None:
        """Stop listening, cut every connection, and raise what a script raised."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        if self.failures:
            raise self.failures[0]


@contextmanager
def scripted(*scripts: Script) -> Iterator[ScriptedServer]:
    """A server with these scripts for the time of a block."""
    server = ScriptedServer(*scripts)
    try:
        yield server
    finally:
        server.close()
