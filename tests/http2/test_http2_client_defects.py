"""A defect of ours in our HTTP/2 client costs the call that met it, and no other."""

import threading
from typing import Any

import pytest
from tests.http2 import frames as wire
from tests.http2.client_calls import calling
from tests.http2.scripted_server import HEAD, OK, Peer, scripted

from penstock.client.errors import InferenceError
from penstock.client.http2_status import error_of_status
from penstock_runtime.errors import Status

REFUSED = wire.block(
    (
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"14"),
        (b"grpc-message", b"busy"),
    )
)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_defect_ends_its_own_call_and_no_other_of_the_same_read(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one fails as INTERNAL and the log says why; the one behind it is answered."""

    def broken(code: int, *more: Any) -> Any:
        return error_of_status(code // (14 - code), *more)

    def both_at_once(peer: Peer) -> None:
        peer.greet()
        first, second = peer.whole_request(), peer.whole_request()
        peer.send(
            wire.headers(first, REFUSED, end=True),
            wire.headers(second, HEAD),
            wire.data(second, wire.message(b"answer")),
            wire.headers(second, OK, end=True),
        )
        peer.serve(b"more")

    monkeypatch.setattr("penstock.client.http2_link_events.error_of_status", broken)
    with scripted(both_at_once) as server, calling(kind, server.address) as caller:
        first, second = caller.stream(), caller.stream()
        with pytest.raises(InferenceError, match="the client failed") as raised:
            caller.next(first)

        assert raised.value.status is Status.INTERNAL
        assert caller.rest(second) == [b"answer"]
        assert caller.unary() == b"more"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_no_pushback_of_a_server_is_too_large(kind: str) -> None:
    """A number that nothing can hold is a delay of a day."""
    pushback = REFUSED + wire.block(((b"grpc-retry-pushback-ms", b"9" * 400),))
    over = threading.Event()

    def refuse(peer: Peer) -> None:
        peer.greet()
        peer.send(wire.headers(peer.whole_request(), pushback, end=True))
        assert over.wait(20)

    with scripted(refuse) as server, calling(kind, server.address) as caller:
        with pytest.raises(InferenceError, match="busy") as raised:
            caller.unary()
        over.set()

    assert raised.value.retry_after_s == 86_400.0
