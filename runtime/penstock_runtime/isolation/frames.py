"""What passes between the server and the process of a model: frames on a socket, each with a kind,
a number, a note in JSON and bytes. Nothing that is received is executed.

The server trusts no frame: a length is held against a bound before anything is made of it.
"""

import array
import json
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from penstock_runtime.errors import Internal, ResourceExhausted

PROTOCOL = 1
# The most bytes of a frame's data, and of its note.
MOST_BYTES = 64 << 20
MOST_NOTE = 4 << 20
_HEAD = struct.Struct("<IIBQ")
# One for all: making one for each message would cost more than what it does.
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_FD_BYTES = socket.CMSG_SPACE(array.array("i").itemsize)


class Kind(IntEnum):
    """What a frame says. The first group is the server's, the second the child's."""

    HELLO = 1
    EXECUTE = 2
    STREAM = 3
    REQUESTS = 4
    CANCEL = 5
    CREDIT = 6
    RELEASE = 7
    SEGMENT = 8
    DROP = 9
    NO_SEGMENT = 10
    REPLY = 11
    CALL_ANSWER = 12
    FINALIZE = 13
    CLOSE = 14

    READY = 64
    FAILED = 65
    BEAT = 66
    RESULT = 67
    RESPONSE = 68
    END = 69
    ERROR = 70
    ANSWER = 71
    FINISHED = 72
    REFUSED = 73
    FREE = 74
    NEED = 75
    DROPPED = 76
    LOG = 77
    ASK = 78
    TELL = 79
    CALL = 80
    CALL_END = 81
    CALL_CREDIT = 82
    ENGINE = 83
    RECORDS = 84
    READING = 85


_KINDS = {int(kind): kind for kind in Kind}


class Frame(NamedTuple):
    """One frame; `number` says which execution, task or question it belongs to."""

    kind: Kind
    number: int
    note: dict[str, Any]
    data: memoryview
    fd: int = -1


class BrokenProtocol(Internal):
    """The other side said what it never should."""


def head_of(raw: bytes | bytearray) -> tuple[int, int, Kind, int]:
    """Length of the note and of the data, kind and number. BrokenProtocol unless all are sound."""
    note, data, kind, number = _HEAD.unpack(raw)
    known = _KINDS.get(kind)
    if known is None:
        raise BrokenProtocol(f"a frame is of kind {kind}, which there is not")
    if note > MOST_NOTE or data > MOST_BYTES:
        raise BrokenProtocol(
            f"a frame has {note} + {data} bytes, expected at most {MOST_NOTE} + {MOST_BYTES}"
        )
    return note, data, known, number


def note_of(raw: bytes | bytearray) -> dict[str, Any]:
    """The note, a JSON object. BrokenProtocol for anything else."""
    if not raw:
        return {}
    try:
        note = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise BrokenProtocol(f"a note of {len(raw)} bytes is no JSON") from None
    if not isinstance(note, dict):
        raise BrokenProtocol(f"a note is a {type(note).__name__}, expected an object")
    return note


def packed(kind: Kind, number: int, note: Mapping[str, Any] | None, size: int) -> bytes:
    """Head and note of a frame whose data has so many bytes. ResourceExhausted beyond bounds."""
    text = _ENCODE(note).encode() if note else b""
    if len(text) > MOST_NOTE or size > MOST_BYTES:
        raise ResourceExhausted(
            f"{len(text)} + {size} bytes are more than fit into a message between the server and"
            f" the model's process, expected at most {MOST_NOTE} + {MOST_BYTES}",
            reason="ISOLATION_MESSAGE_TOO_LARGE",
            scheduled=True,
        )
    return _HEAD.pack(len(text), size, kind, number) + text


class Channel:
    """One end of the socket. `send` from any thread, `receive` from one."""

    def __init__(self, link: socket.socket, *, takes_fds: bool = False) -> None:
        self._link = link
        self._takes_fds = takes_fds
        self._lock = threading.Lock()

    def send(
        self,
        kind: Kind,
        number: int = 0,
        note: Mapping[str, Any] | None = None,
        data: Sequence[bytes | memoryview] = (),
        fd: int = -1,
    ) -> None:
        """Send a frame; OSError where nobody is there to receive it. Blocks while the other side
        reads nothing.
        """
        head = packed(kind, number, note, sum(map(len, data)))
        with self._lock:
            if fd >= 0:
                socket.send_fds(self._link, [head[:1]], [fd])
                head = head[1:]
            self._link.sendall(b"".join((head, *data)) if data else head)

    def receive(self) -> Frame | None:
        """The next frame; None at the end. BlockingIOError once the socket's own timeout passes."""
        head = bytearray(_HEAD.size)
        fd = self._first(head)
        if fd is None:
            return None
        note_size, data_size, kind, number = head_of(head)
        # Apart, so that arrays in the data lie where arrays want to.
        text, data = bytearray(note_size), bytearray(data_size)
        if not self._fill(memoryview(text)) or not self._fill(memoryview(data)):
            return None
        return Frame(kind, number, note_of(text), memoryview(data), fd)

    def _first(self, head: bytearray) -> int | None:
        """Fill the head; the descriptor that came with it, -1 for none. None at the end."""
        view = memoryview(head)
        if not self._takes_fds:
            return -1 if self._fill(view) else None
        count, extra, _, _ = self._link.recvmsg_into([view], _FD_BYTES)
        if not count or not self._fill(view[count:]):
            return None
        fds = array.array("i")
        for level, kind, content in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        return fds[0] if fds else -1

    def _fill(self, view: memoryview) -> bool:
        while view:
            count = self._link.recv_into(view)
            if not count:
                return False
            view = view[count:]
        return True

    def shut(self) -> None:
        """End both directions; whoever receives or sends is told."""
        try:
            self._link.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket."""
        self._link.close()
