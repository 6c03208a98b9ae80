"""Names and servers that change under our HTTP/2 client: bad ones, such as move, and health."""

import threading
from collections.abc import Callable

import pytest
from tests.http2 import frames as wire
from tests.http2.client_calls import Caller, calling
from tests.http2.frames import END_STREAM, Setting, Type
from tests.http2.scripted_server import HEAD, Peer, Script, scripted

from penstock.client import http2_pool
from penstock.client.errors import InferenceError
from penstock.client.http2_targets import Endpoint, Target
from penstock_protos import health as health_pb
from penstock_runtime.errors import Status

KINDS = pytest.mark.parametrize("kind", ["threads", "tasks"])
SERVING = health_pb.HealthCheckResponse.SERVING
NOT_SERVING = health_pb.HealthCheckResponse.NOT_SERVING


def healthy(
    status: health_pb.HealthCheckResponse.ServingStatus.ValueType, then: Callable[[Peer, int], None]
) -> Script:
    """A server whose health is this; `then` answers the calls."""

    def script(peer: Peer) -> None:
        peer.greet()
        watch(peer, status)
        for frame in iter(peer.read, None):
            if frame.type < 2 and frame.flags & END_STREAM:
                then(peer, frame.stream)

    return script


def watch(peer: Peer, status: health_pb.HealthCheckResponse.ServingStatus.ValueType) -> None:
    """Hear that the health is watched, and say it; the client may also leave before."""
    said = health_pb.HealthCheckResponse(status=status).SerializeToString()
    for frame in iter(peer.read, None):
        if frame.type < 2 and frame.flags & END_STREAM:
            peer.send(wire.headers(frame.stream, HEAD))
            peer.send(wire.data(frame.stream, wire.message(said)))
            return


def until(caller: Caller, event: threading.Event) -> None:
    """Wait for it, while a task's channel does what it has to do."""
    for _ in range(2000):
        if event.wait(0.01):
            return
        caller.settle()
    raise AssertionError("it never happened")


@KINDS
@pytest.mark.parametrize("address", ["a..b:8001", "dns:///a..b:8001", f"{'x' * 64}.com:8001"])
def test_what_can_be_no_name_is_unavailable_at_once(kind: str, address: str) -> None:
    """The call does not wait for its deadline, and hears what is wrong."""
    with calling(kind, address) as caller, pytest.raises(InferenceError) as raised:
        caller.unary(timeout_s=60)

    assert raised.value.status is Status.UNAVAILABLE
    assert "can be no name of a server" in raised.value.message
    assert "label" in raised.value.message


@KINDS
def test_closing_ends_calls_where_a_name_led_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name moved while a call was open at its old address: the call is cancelled, and the old
    server hears a goodbye.
    """
    open_at_old, left, moved, goodbye = (threading.Event() for _ in range(4))

    def take(peer: Peer, number: int) -> None:
        open_at_old.set()
        peer.wait(lambda frame: frame.type == Type.GOAWAY)
        goodbye.set()

    def leave(peer: Peer) -> None:
        peer.greet()
        watch(peer, NOT_SERVING)
        left.wait(20)

    def arrive(peer: Peer) -> None:
        peer.greet()
        watch(peer, SERVING)
        moved.set()
        while peer.read() is not None:
            pass

    def nothing(_: Peer) -> None:
        """What a connection finds that is made before the name is asked for again."""

    with (
        scripted(healthy(SERVING, take)) as old,
        scripted(leave, nothing) as another,
        scripted(arrive) as new,
    ):
        known = [old.address, another.address]

        async def resolve(_: Target) -> tuple[Endpoint, ...]:
            ports = [int(each.rpartition(":")[2]) for each in known]
            return tuple(Endpoint("127.0.0.1", port, name="servers") for port in ports)

        monkeypatch.setattr(http2_pool, "resolve", resolve)
        monkeypatch.setattr(http2_pool, "_RESOLVE_AGAIN_S", 0.0)
        with calling(kind, "dns:///servers:1") as caller:
            call = caller.stream(timeout_s=None)
            until(caller, open_at_old)
            known[:] = [new.address]
            left.set()
            until(caller, moved)

            caller.run(caller.channel.close)

            with pytest.raises(InferenceError, match="CANCELLED"):
                caller.next(call)
            assert goodbye.wait(10)


@KINDS
def test_a_server_that_has_no_room_at_first_is_watched_once_it_has(kind: str) -> None:
    """Its health cannot be asked before: the call goes there as soon as the server takes any."""

    def full(peer: Peer) -> None:
        peer.greet((Setting.MAX_CONCURRENT_STREAMS, 0))
        for frame in iter(peer.read, None):
            if frame.is_(Type.SETTINGS, wire.ACK):
                break
        peer.send(wire.settings((Setting.MAX_CONCURRENT_STREAMS, 100)))
        watch(peer, SERVING)
        peer.serve(b"answer")

    with (
        scripted(full) as one,
        scripted(full) as other,
        calling(kind, one.address, other.address) as caller,
    ):
        assert caller.unary() == b"answer"
