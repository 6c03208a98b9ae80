"""Streams of our HTTP/2 client: many messages, reading on after the end, two readers at once."""

import asyncio
import os
import signal
import threading
from functools import partial
from typing import Any

import pytest
from tests.http2 import frames as wire
from tests.http2.client_calls import STREAM, calling
from tests.http2.frames import Setting, Type
from tests.http2.scripted_server import HEAD, OK, Peer, scripted

from penstock.client.errors import InferenceError

KINDS = pytest.mark.parametrize("kind", ["threads", "tasks"])
WINDOW = 1 << 20
"""Of a stream of our client's."""


def begin(peer: Peer) -> int:
    """Greet, and begin to answer a request: its stream."""
    peer.greet()
    number = peer.whole_request()
    peer.send(wire.headers(number, HEAD))
    return number


def one_and_silence(peer: Peer) -> None:
    """One answer, and no more until the client leaves."""
    rest_of(peer, begin(peer))


def rest_of(peer: Peer, number: int) -> None:
    """One answer on a stream whose head is sent, and silence until the client leaves."""
    peer.send(wire.data(number, wire.message(b"one")))
    while peer.read() is not None:
        pass


def send_all(peer: Peer, number: int, message: bytes, count: int) -> None:
    """Send a message so many times, as far as the window of the stream goes at any time."""
    left = WINDOW
    while count:
        some = min(100, count, left // len(message))
        if not some:
            grant = peer.wait(lambda frame: frame.is_(Type.WINDOW_UPDATE) and frame.stream > 0)
            left += int.from_bytes(grant.payload)
            continue
        peer.send(wire.data(number, message * some))
        left -= some * len(message)
        count -= some


@KINDS
def test_messages_that_were_taken_let_the_next_ones_come(kind: str) -> None:
    """However many small ones a stream has: each gives back all that it was counted for."""
    count = 30_000

    def flood(peer: Peer) -> None:
        number = begin(peer)
        send_all(peer, number, wire.message(bytes(100)), count)
        peer.send(wire.headers(number, OK, end=True))
        # Closing a socket with unread bytes would cut off what was just sent.
        while peer.read() is not None:
            pass

    with scripted(flood) as server, calling(kind, server.address) as caller:
        answers = caller.rest(caller.stream())

    assert len(answers) == count


@KINDS
def test_a_stream_that_is_over_says_so_to_whoever_asks_again(kind: str) -> None:
    """Read to its end, failed or cancelled: asking once more never waits."""

    def three(peer: Peer) -> None:
        number = begin(peer)
        peer.send(wire.headers(number, OK, end=True))
        peer.send(wire.rst_stream(peer.whole_request()))
        left = peer.whole_request()
        peer.send(wire.headers(left, HEAD))
        rest_of(peer, left)

    with scripted(three) as server, calling(kind, server.address) as caller:
        ended, failed, left = caller.stream(), caller.stream(), caller.stream()
        assert caller.next(left) == b"one"
        caller.run(left.cancel)

        for _ in range(3):
            assert caller.rest(ended) == []
            for call in (failed, left):
                with pytest.raises(InferenceError, match="CANCELLED"):
                    caller.next(call)


def test_every_thread_that_reads_a_stream_learns_of_its_end() -> None:
    """A message is for one of them, the end is for all."""
    found: list[list[object]] = []
    go = threading.Event()

    def end_later(peer: Peer) -> None:
        number = begin(peer)
        assert go.wait(20)
        peer.send(wire.data(number, wire.message(b"one")), wire.headers(number, OK, end=True))
        while peer.read() is not None:
            pass

    with scripted(end_later) as server, calling("threads", server.address) as caller:
        call = caller.stream()
        readers = [threading.Thread(target=lambda: found.append(list(call))) for _ in range(3)]
        for reader in readers:
            reader.daemon = True
            reader.start()
        go.set()
        for reader in readers:
            reader.join(10)

    assert sorted(map(len, found)) == [0, 0, 1]


def test_a_second_task_that_reads_or_sends_is_told() -> None:
    """A stream has one reader and one writer: one more would wait for ever, and is refused."""

    def silent(peer: Peer) -> None:
        peer.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        while peer.read() is not None:
            pass

    async def at_once(caller: Any) -> list[str]:
        call = caller.channel.call(STREAM, 20.0, ())
        said, waiting = [], []
        for action in (call.__anext__, partial(call.send, bytes(2 << 20))):
            waiting.append(asyncio.ensure_future(action()))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError) as raised:
                await action()
            said.append(str(raised.value))
        call.cancel()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [InferenceError] * 2
        return said

    with scripted(silent) as server, calling("tasks", server.address) as caller:
        said = caller.run(lambda: at_once(caller))

    assert said == [
        "another task waits for the next answer of this stream, expected one reader",
        "another task waits to send on this stream, expected one writer",
    ]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_stream_stays_with_the_process_that_began_it() -> None:
    """In a forked one nothing will ever arrive: whatever is asked says so; leaving is no harm."""
    with scripted(one_and_silence) as server, calling("threads", server.address) as caller:
        call = caller.stream()
        assert caller.next(call) == b"one"
        child = os.fork()
        if child == 0:
            os._exit(refusals_in_the_child(call))

        assert os.waitpid(child, 0)[1] == 0
        call.cancel()


def refusals_in_the_child(call: Any) -> int:
    """0 if all is as it should be; nothing may leave the child but a number."""
    signal.alarm(10)
    refused = 0
    for action in (call.__next__, partial(call.send, b"x"), call.done_sending):
        try:
            action()
        except ValueError:
            refused += 1
    call.cancel()
    return 3 - refused
