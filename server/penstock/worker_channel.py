"""What the supervisor and one of its processes say to each other, over a pair of sockets that no
one else can reach and that leaves nothing behind.

The supervisor sends an assignment, then lines `NUMBER QUESTION`; the process sends `NUMBER SIZE`
and as many bytes, number 0 being news that nobody asked for. The end of either side is the end of
the other's.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from penstock.config import ServerOptions

NEWS = 0
LISTENING, LOADED = "listening", "loaded"
LIVE, READY = "live", "ready"
HEALTH, METRICS, HURRY, QUEUES = "health", "metrics", "hurry", "queues"
CHANGED = "changed "
"""How news of changed settings begin; a number and the change follow, see `neighbours`."""
CHANGE, SETTLED = "change:", "settled:"
"""How the supervisor passes a change on, and says that all have it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is told at its start.

    `options` are resolved: nothing of them is read again. `path` is where modules are looked for.
    A process that is not the `first` under its number takes the place of one that died.
    """

    number: int
    first: bool
    parent: int
    path: tuple[str, ...]
    options: ServerOptions

    def encode(self) -> bytes:
        """As one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Assignment":
        """What `encode` made of it; ValueError for anything else."""
        said = json.loads(line)
        options = {name: _value(value) for name, value in said["options"].items()}
        return cls(
            number=said["number"],
            first=said["first"],
            parent=said["parent"],
            path=tuple(said["path"]),
            options=ServerOptions(**options),
        )


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class WorkerEnd:
    """The end in the process: a thread answers, whatever the event loop does."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._lines = self._socket.makefile("rb")
        self._sending = threading.Lock()

    def assignment(self) -> Assignment:
        """What the supervisor wants; ValueError if it is gone before it has said so."""
        return Assignment.decode(self._lines.readline())

    def tell(self, news: str) -> None:
        """Send news."""
        self._send(NEWS, news.encode())

    def answer(self, answer: Callable[[str], bytes], gone: Callable[[], None]) -> None:
        """From now on answer questions, in a thread; `gone` is called when nobody can ask."""
        threading.Thread(
            target=self._answer, args=(answer, gone), name="penstock-worker", daemon=True
        ).start()

    def close(self) -> None:
        """Close this end; nobody may be answering."""
        self._lines.close()
        self._socket.close()

    def _answer(self, answer: Callable[[str], bytes], gone: Callable[[], None]) -> None:
        try:
            for line in self._lines:
                number, question = line.decode().split()
                self._send(int(number), _answered(answer, question))
        except OSError:
            # Gone in the middle of a sentence.
            pass
        gone()

    def _send(self, number: int, body: bytes) -> None:
        with self._sending:
            self._socket.sendall(b"%d %d\n" % (number, len(body)) + body)


def _answered(answer: Callable[[str], bytes], question: str) -> bytes:
    try:
        return answer(question)
    except Exception:
        _log.exception("the supervisor's question %r is not answered", question)
        return b""


class SupervisorEnd:
    """The end in the supervisor, on its loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        news: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._news = news
        self._numbers = count(NEWS + 1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, ours: socket.socket, news: Callable[[str], None]) -> "SupervisorEnd":
        """Take over this socket of a pair; `news` is told what the process says by itself."""
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(reader, writer, news)

    def assign(self, assignment: Assignment) -> None:
        """Tell the process what it is to be."""
        self._writer.write(assignment.encode())

    async def ask(self, question: str, timeout_s: float) -> bytes:
        """The answer; b"" if there is none in time, or nobody to give it."""
        if self._reading.done():
            return b""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(f"{number} {question}\n".encode())
        try:
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            return b""
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """Close this end, once the process is gone."""
        self._reading.cancel()
        await asyncio.wait((self._reading,))
        self._writer.close()

    async def _read(self) -> None:
        try:
            while head := await self._reader.readline():
                number, size = map(int, head.split())
                self._heard(number, await self._reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError):
            # The process died while it spoke.
            pass
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_result(b"")

    def _heard(self, number: int, body: bytes) -> None:
        if number == NEWS:
            self._news(body.decode())
            return
        answer = self._waiting.get(number)
        # Who asked may have stopped waiting.
        if answer is not None and not answer.done():
            answer.set_result(body)
