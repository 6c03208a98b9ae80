"""Our HTTP/2 channels against servers that follow a script: losses, refusals, limits, nonsense."""

import asyncio
import threading
from functools import partial

import pytest
from tests.http2 import frames as wire
from tests.http2.client_calls import calling
from tests.http2.frames import Code, Setting, Type
from tests.http2.scripted_server import HEAD, OK, Peer, scripted

from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

KINDS = pytest.mark.parametrize("kind", ["threads", "tasks"])


def serve(peer: Peer) -> None:
    """A server that answers everything."""
    peer.greet()
    peer.serve(b"answer")


@KINDS
def test_a_call_that_goaway_gave_back_is_sent_elsewhere(kind: str) -> None:
    """A server that goes before it looked at a call costs the caller nothing."""

    def leave(peer: Peer) -> None:
        peer.greet()
        peer.whole_request()
        peer.send(wire.goaway(last=0))

    with scripted(leave, serve) as server, calling(kind, server.address) as caller:
        assert caller.unary() == b"answer"
        assert server.connections == 2


@KINDS
def test_calls_below_the_goaway_end_where_they_are(kind: str) -> None:
    """What the server took it answers, and the next call opens another connection."""

    def finish(peer: Peer) -> None:
        peer.greet()
        stream = peer.whole_request()
        peer.send(wire.goaway(last=stream))
        peer.answer(stream, b"the last")
        assert peer.wait(lambda frame: frame.type == Type.GOAWAY).code == Code.NO_ERROR

    with scripted(finish, serve) as server, calling(kind, server.address) as caller:
        assert caller.unary() == b"the last"
        assert caller.unary() == b"answer"


@KINDS
def test_a_refused_stream_is_sent_again(kind: str) -> None:
    """REFUSED_STREAM means that nothing was done: the same connection may take it now."""

    def refuse(peer: Peer) -> None:
        peer.greet()
        peer.send(wire.rst_stream(peer.whole_request(), Code.REFUSED_STREAM))
        peer.serve(b"answer")

    with scripted(refuse) as server, calling(kind, server.address) as caller:
        assert caller.unary() == b"answer"
        assert server.connections == 1


@KINDS
def test_a_server_that_refuses_for_ever_is_unavailable(kind: str) -> None:
    """Sending again has an end."""
    refused: list[int] = []

    def refuse(peer: Peer) -> None:
        peer.greet()
        while (frame := peer.read()) is not None:
            if frame.type == Type.DATA:
                refused.append(frame.stream)
                peer.send(wire.rst_stream(frame.stream, Code.REFUSED_STREAM))

    with scripted(refuse) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError, match="UNAVAILABLE"):
            caller.unary()

        assert len(refused) == 5


@KINDS
def test_a_connection_lost_in_a_call_is_unavailable(kind: str) -> None:
    """The server may have done it: that is for the caller to decide. The next call connects."""

    def vanish(peer: Peer) -> None:
        peer.greet()
        peer.whole_request()

    with scripted(vanish, serve) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError, match="UNAVAILABLE: the connection was lost"):
            caller.unary()

        assert caller.unary() == b"answer"


@KINDS
@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.CANCEL, Status.CANCELLED),
        (Code.INTERNAL_ERROR, Status.INTERNAL),
        (Code.ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
        (0x77, Status.INTERNAL),
    ],
)
def test_a_reset_has_the_status_that_grpc_gives_it(kind: str, code: int, status: Status) -> None:
    """RST_STREAM ends the call alone, with a status by its code."""

    def reset(peer: Peer) -> None:
        peer.greet()
        peer.send(wire.rst_stream(peer.whole_request(), code))
        peer.serve(b"answer")

    with scripted(reset) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError) as raised:
            caller.unary()

        assert raised.value.status is status
        assert caller.unary() == b"answer"


@KINDS
def test_the_deadline_travels_and_ends_the_call_on_both_sides(kind: str) -> None:
    """The server is told how long, and told when it is over."""
    heard = threading.Event()

    def hang(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.whole_request(), b"connected")
        head = peer.request()
        assert b"grpc-timeout" in head.payload
        reset = peer.wait(lambda frame: frame.type == Type.RST_STREAM)
        assert reset.code == Code.CANCEL
        heard.set()

    with scripted(hang) as server, calling(kind, server.address) as caller:
        caller.unary()  # the connection is not part of the deadline
        with pytest.raises(InferenceError) as raised:
            caller.unary(timeout_s=0.3)
        caller.settle()

        assert raised.value.status is Status.DEADLINE_EXCEEDED
        assert heard.wait(10)


@KINDS
def test_a_cancelled_stream_is_reset(kind: str) -> None:
    """The server learns that nobody listens any more."""
    heard = threading.Event()

    def stream(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        peer.send(wire.headers(number, HEAD), wire.data(number, wire.message(b"one")))
        reset = peer.wait(lambda frame: frame.type == Type.RST_STREAM)
        assert (reset.stream, reset.code) == (number, Code.CANCEL)
        heard.set()

    with scripted(stream) as server, calling(kind, server.address) as caller:
        call = caller.stream()
        assert caller.next(call) == b"one"

        caller.run(call.cancel)
        caller.settle()

        with pytest.raises(InferenceError, match="CANCELLED"):
            caller.next(call)
        assert heard.wait(10)


NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"\0" * 64,
    b"\xff" * 64,
    wire.settings() + wire.header(1 << 23, Type.DATA, 0, 1),
    wire.settings() + wire.frame(Type.PUSH_PROMISE, 4, 1, bytes(8)),
    wire.settings() + wire.headers(9, HEAD),
    wire.settings() + wire.headers(1, b"\x80"),
    wire.settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)),
    wire.settings() + wire.window_update(0, wire.MAX_WINDOW),
]


@KINDS
@pytest.mark.parametrize("raw", NONSENSE)
def test_nonsense_never_leaves_a_call_waiting(kind: str, raw: bytes) -> None:
    """A server that breaks the protocol is UNAVAILABLE, whatever it breaks."""

    def babble(peer: Peer) -> None:
        peer.send(raw)
        while peer.socket.recv(65536):
            pass

    with scripted(babble) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError) as raised:
            caller.unary()

        assert raised.value.status is Status.UNAVAILABLE


@KINDS
def test_a_server_without_trailers_is_an_error(kind: str) -> None:
    """A message alone is no answer."""

    def half(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        peer.send(wire.headers(number, HEAD), wire.data(number, wire.message(b"x"), end=True))
        peer.serve(b"answer")

    with scripted(half) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError, match="without trailers"):
            caller.unary()

        assert caller.unary() == b"answer"


@KINDS
@pytest.mark.parametrize("count", [0, 2])
def test_a_unary_call_has_one_answer(kind: str, count: int) -> None:
    """None, or a second one, is the server's mistake."""

    def answer(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        body = wire.message(b"x") * count
        peer.send(
            wire.headers(number, HEAD),
            wire.data(number, body),
            wire.headers(number, OK, end=True),
        )
        peer.serve(b"answer")

    with scripted(answer) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError, match="INTERNAL"):
            caller.unary()

        assert caller.unary() == b"answer"


def test_calls_wait_for_the_servers_limit_of_streams() -> None:
    """One stream at a time, if the server says so: the second call begins after the first."""
    open_at_once: list[int] = []

    def one_by_one(peer: Peer) -> None:
        peer.greet((Setting.MAX_CONCURRENT_STREAMS, 1))
        for _ in range(3):
            number = peer.whole_request()
            peer.send(wire.ping(b"anything"))
            peer.wait(lambda frame: frame.is_(Type.PING, wire.ACK))
            heads = [frame for frame in peer.seen if frame.type == Type.HEADERS]
            open_at_once.append(len(heads) - len(open_at_once))
            peer.answer(number, b"answer")

    async def three(caller: object) -> list[object]:
        channel = caller.channel  # type: ignore[attr-defined]
        await channel.unary("/s/First", b"x", 20, ())
        return [
            await each
            for each in [
                asyncio.ensure_future(channel.unary("/s/More", b"x", 20, ())) for _ in range(2)
            ]
        ]

    with scripted(one_by_one) as server, calling("tasks", server.address) as caller:
        assert caller.run(lambda: three(caller)) == [b"answer", b"answer"]
        assert open_at_once == [1, 1, 1]


@KINDS
def test_a_large_request_waits_for_the_servers_windows(kind: str) -> None:
    """The server gets what it granted, and in the end everything."""
    request = bytes(range(256)) * 2048

    def small(peer: Peer) -> None:
        peer.greet((Setting.INITIAL_WINDOW_SIZE, 1000))
        number = peer.request().stream
        got = b""
        while len(got) < len(request) + 5:
            frame = peer.wait(lambda frame: frame.type == Type.DATA)
            got += frame.payload
            more = len(frame.payload) * 2
            peer.send(wire.window_update(number, more), wire.window_update(0, more))
        assert got == wire.message(request)
        peer.answer(number, b"answer")

    with scripted(small) as server, calling(kind, server.address) as caller:
        assert caller.unary(request) == b"answer"


@KINDS
def test_answers_that_nobody_takes_hold_the_server_back(kind: str) -> None:
    """The server gets as far as the window of the stream, and on as messages are taken."""
    body = wire.message(bytes((1 << 14) - 5))
    count = 200
    stalled = threading.Event()

    def flood(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        peer.send(wire.headers(number, HEAD))
        left = 1 << 20
        for _ in range(count):
            if left < len(body):
                if not stalled.is_set():
                    peer.send(wire.ping(b"no more?"))
                    peer.wait(lambda frame: frame.is_(Type.PING, wire.ACK))
                    assert number not in granted(peer)
                    stalled.set()
                peer.wait(lambda frame: frame.type == Type.WINDOW_UPDATE and frame.stream > 0)
                left += int.from_bytes(peer.seen[-1].payload)
            left -= len(body)
            peer.send(wire.data(number, body))
        peer.send(wire.headers(number, OK, end=True))
        # Closing a socket with unread bytes would cut off what was just sent.
        while peer.read() is not None:
            pass

    def granted(peer: Peer) -> list[int]:
        return [frame.stream for frame in peer.seen if frame.type == Type.WINDOW_UPDATE]

    with scripted(flood) as server, calling(kind, server.address) as caller:
        call = caller.stream()
        first = caller.next(call)
        while not stalled.wait(0.01):
            caller.settle()

        rest = caller.rest(call)

        assert [len(each) for each in (first, *rest)] == [len(body) - 5] * count


@KINDS
def test_a_writer_is_held_back_by_a_server_that_does_not_read(kind: str) -> None:
    """`send` returns at once while there is room, and only later when there is none."""
    sent: list[int] = []
    go = threading.Event()

    def slow(peer: Peer) -> None:
        peer.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        number = peer.request().stream
        assert go.wait(20)
        before = len(sent)
        peer.send(wire.window_update(number, 1 << 30), wire.window_update(0, 1 << 30))
        peer.wait(lambda frame: bool(frame.type == Type.DATA and frame.flags & wire.END_STREAM))
        assert before < 8
        peer.answer(number, b"got it")

    with scripted(slow) as server, calling(kind, server.address) as caller:
        call = caller.call()
        threading.Timer(0.3, go.set).start()
        for number in range(8):
            caller.run(partial(call.send, bytes(200_000)))
            sent.append(number)
        caller.run(call.done_sending)

        assert caller.rest(call) == [b"got it"]


@KINDS
def test_what_was_sent_on_a_stream_is_sent_again_elsewhere(kind: str) -> None:
    """A stream that the server did not look at begins anew with all its requests."""

    def leave(peer: Peer) -> None:
        peer.greet()
        peer.wait(lambda frame: frame.type == Type.DATA and frame.payload.endswith(b"two"))
        peer.send(wire.goaway(last=0))

    def collect(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        body = b"".join(frame.payload for frame in peer.seen if frame.type == Type.DATA)
        peer.answer(number, body)

    with scripted(leave, collect) as server, calling(kind, server.address) as caller:
        call = caller.call()
        for each in (b"one", b"two"):
            caller.run(partial(call.send, each))
        caller.run(call.done_sending)

        (answer,) = caller.rest(call)

        assert answer == b"".join(map(wire.message, (b"one", b"two")))


@KINDS
def test_closing_the_channel_ends_its_calls_as_cancelled(kind: str) -> None:
    """Whoever waits is told, and the server hears a goodbye."""
    heard = threading.Event()

    def hang(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        peer.send(wire.headers(number, HEAD), wire.data(number, wire.message(b"one")))
        peer.wait(lambda frame: frame.type == Type.GOAWAY)
        heard.set()

    with scripted(hang) as server, calling(kind, server.address) as caller:
        call = caller.stream()
        caller.next(call)

        caller.run(caller.channel.close)

        with pytest.raises(InferenceError, match="CANCELLED"):
            caller.next(call)
        assert heard.wait(10)
