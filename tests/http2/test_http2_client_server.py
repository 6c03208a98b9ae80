"""Our client with our own server, and with grpcio's behind the same service: nothing differs."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.http2.client_calls import Caller, calling
from tests.http2.service import REFUSAL, Serving, serving

from penstock.client.errors import InferenceError
from penstock_runtime.errors import Status

KINDS = ["threads", "tasks"]


@pytest.fixture(params=["grpcio", "http2"])
def server(request: pytest.FixtureRequest) -> Iterator[Serving]:
    with serving(str(request.param)) as started:
        yield started


@pytest.fixture(params=KINDS)
def caller(request: pytest.FixtureRequest, server: Serving) -> Iterator[Caller]:
    with calling(str(request.param), server.address) as made:
        yield made


def unary(caller: Caller, name: str, request: bytes, timeout_s: float = 20.0) -> bytes:
    """The answer to one request, by the short name of a method."""
    return bytes(caller.run(lambda: caller.channel.unary(name, request, timeout_s, ())))


def call(caller: Caller, name: str, *requests: bytes) -> Any:
    """A streaming call with these requests."""
    opened = caller.run(lambda: caller.channel.call(name, 20.0, ()))
    for each in requests:
        caller.run(partial(opened.send, each))
    caller.run(opened.done_sending)
    return opened


def until(caller: Caller, there: Callable[[], bool]) -> None:
    """Wait for what the server is to notice, while the client does what it has to do."""
    for _ in range(1000):
        if there():
            return
        caller.settle()
        time.sleep(0.01)
    raise AssertionError("it never happened")


@pytest.mark.parametrize("size", [0, 100, 70_000, 3 << 20])
def test_answers_come_back(caller: Caller, server: Serving, size: int) -> None:
    """Requests and answers of every size."""
    request = bytes(range(256)) * (size // 256)

    assert [unary(caller, "/s/Echo", request) == request for _ in range(3)] == [True] * 3


def test_a_refusal_arrives_whole(caller: Caller, server: Serving) -> None:
    """Status, text with all its characters, and the hint when to come back."""
    with pytest.raises(InferenceError) as raised:
        unary(caller, "/s/Refuse", b"")

    assert raised.value.status is Status.NOT_FOUND
    assert raised.value.message == REFUSAL.text
    assert raised.value.retry_after_s == 0.007


def test_a_refusal_may_come_after_answers(caller: Caller, server: Serving) -> None:
    """What came before it is not lost."""
    opened = call(caller, "/s/RefuseStream", b"x")

    first = caller.next(opened)
    with pytest.raises(InferenceError, match="NOT_FOUND"):
        caller.next(opened)

    assert first == b"first"


def test_trailing_metadata_is_kept(caller: Caller, server: Serving) -> None:
    """Of a call that succeeds as well, text and bytes."""
    opened = call(caller, "/s/Describe", b"x")

    caller.rest(opened)

    assert dict(opened.trailing_metadata) == {"bye": "now", "raw-bin": b"\0\1"}


def test_requests_and_answers_are_in_order(caller: Caller, server: Serving) -> None:
    """Every message is doubled, and none overtakes another."""
    requests = [b"%d" % number * (number % 50) for number in range(200)]

    answers = caller.rest(call(caller, "/s/Double", *requests))

    assert list(map(bytes, answers)) == [each for each in requests for _ in range(2)]


def test_many_answers_to_one_request(caller: Caller, server: Serving) -> None:
    """Ten thousand small messages arrive, all of them and in order."""
    answers = caller.rest(call(caller, "/s/Count", b"10000"))

    assert list(map(bytes, answers)) == [b"%d" % number for number in range(10_000)]


def test_a_large_upload_is_taken_in_pieces(caller: Caller, server: Serving) -> None:
    """Far more than any window."""
    answers = caller.rest(call(caller, "/s/Drain", *[bytes(300_000)] * 40))

    assert list(map(bytes, answers)) == [b"40 12000000"]


def test_leaving_a_flood_stops_it(caller: Caller, server: Serving) -> None:
    """The server's handler is cancelled once the client has left."""
    opened = call(caller, "/s/Flood", b"x")
    for _ in range(50):
        caller.next(opened)

    caller.run(opened.cancel)

    until(caller, lambda: server.service.cancelled == 1)


def test_a_deadline_cancels_the_handler(caller: Caller, server: Serving) -> None:
    """Late is late on both sides."""
    with pytest.raises(InferenceError) as raised:
        unary(caller, "/s/Hang", b"", 0.05)

    assert raised.value.status is Status.DEADLINE_EXCEEDED
    until(caller, lambda: server.service.cancelled == 1)
