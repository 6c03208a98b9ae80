"""What a conformance case is: bytes that a client sends, and what a server must make of them."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.http2.frames import ACK, DEFAULT_FRAME_SIZE, Code, Setting, Type, ping
from tests.http2.raw import RawClient, name_of

Act = Callable[[RawClient], None]
Check = Callable[[RawClient], None]
Row = tuple[str, str, Act, Check]
"""Section, law, what is sent, what comes of it."""
MARK = b"-fence-!"


@dataclass(frozen=True, slots=True)
class Case:
    """One rule: where it stands, what it says, what is sent, and what must come of it.

    Sections of RFC 9113 are plain numbers, those of RFC 7541 begin with `hpack`, those of
    ordinary conversations with `generic`. `started` is whether preface and settings went first.
    """

    section: str
    law: str
    act: Act
    check: Check
    started: bool = True

    @property
    def name(self) -> str:
        """As the test is called."""
        return f"{self.section}: {self.law}"


@dataclass(slots=True)
class Outcome:
    """How a connection stands once everything that was sent is worked through."""

    closed: bool
    goaway: int | None
    resets: dict[int, int]

    def __str__(self) -> str:
        resets = {stream: name_of(code) for stream, code in self.resets.items()}
        state = "closed" if self.closed else "open"
        return f"{state}, GOAWAY {name_of(self.goaway)}, RST_STREAM {resets or 'none'}"


def outcome(client: RawClient, *, fence: bool = True) -> Outcome:
    """Read until a PING is answered, or to the end of the connection."""
    if fence:
        client.send(ping(MARK))
    for found in client.frames():
        if fence and found.is_(Type.PING, ACK) and found.payload == MARK:
            break
    errors = [one.code for one in client.seen if one.type == Type.GOAWAY]
    resets = {one.stream: one.code for one in client.seen if one.type == Type.RST_STREAM}
    return Outcome(client.eof, errors[0] if errors else None, resets)


def sending(*frames: bytes) -> Act:
    """Just these frames."""
    return lambda client: client.send(*frames)


def steps(*acts: Act) -> Act:
    """One after the other."""

    def act(client: RawClient) -> None:
        for one in acts:
            one(client)

    return act


def connection_error(*codes: Code) -> Check:
    """GOAWAY with one of these codes, then the end of the connection."""

    def check(client: RawClient) -> None:
        got = outcome(client, fence=False)
        assert got.closed, got
        assert got.goaway in codes, got

    return check


def stream_error(stream: int, *codes: Code) -> Check:
    """RST_STREAM with one of these codes; the connection lives, and so do its other streams."""

    def check(client: RawClient) -> None:
        got = outcome(client)
        assert not got.closed, got
        assert got.goaway is None, got
        assert got.resets.get(stream) in codes, got
        assert client.call(1001, b"neighbour").messages == [b"neighbour"]

    return check


def any_error(stream: int, *codes: Code) -> Check:
    """The rule leaves it open whether it ends the stream or the connection."""

    def check(client: RawClient) -> None:
        got = outcome(client)
        assert (got.goaway if got.closed else got.resets.get(stream)) in codes, got

    return check


def closed(client: RawClient) -> None:
    """The connection ends; a GOAWAY may tell why."""
    for _ in client.frames():
        pass
    assert not any(answer.head for answer in client.answers.values())


def alive(client: RawClient) -> None:
    """Nothing happened to the connection, and it serves calls."""
    got = outcome(client)
    assert not got.closed, got
    assert (got.goaway, got.resets) == (None, {}), got
    assert client.call(1001, b"after").messages == [b"after"]


def answers(*streams: int, body: bytes = b"hello") -> Check:
    """These calls succeed with this message, and the connection lives."""

    def check(client: RawClient) -> None:
        for stream in streams:
            answer = client.answer(stream)
            assert answer.reset in (None, Code.NO_ERROR), name_of(answer.reset)
            assert (answer.status, answer.messages) == (0, [body]), answer
        alive(client)

    return check


def all_of(*checks: Check) -> Check:
    """Every one of these."""

    def check(client: RawClient) -> None:
        for one in checks:
            one(client)

    return check


def frame_limit(client: RawClient) -> int:
    """The largest frame that the server takes."""
    return client.peer_settings.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE)
