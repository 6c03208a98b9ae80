"""Silence on the connections of our HTTP/2 client: asked about, borne, or given up."""

import asyncio
import threading
import time
from functools import partial

import pytest
from tests.http2.client_calls import calling
from tests.http2.frames import Setting, Type, window_update
from tests.http2.scripted_server import Peer, scripted

from penstock.client import http2_link
from penstock.client.errors import InferenceError
from penstock.client.http2_keepalive import Keepalive


def test_a_silent_server_is_pinged_and_given_up() -> None:
    """No answer to a ping within its time, and the calls on the connection fail."""
    closed: list[str] = []

    class Link:
        pings = 0

        def busy(self) -> bool:
            return True

        def ping(self) -> None:
            self.pings += 1

        def give_up(self, reason: str) -> None:
            closed.append(reason)
            over.set()

    async def silence() -> int:
        link = Link()
        Keepalive(0.01, link, answer_s=0.02)
        await over.wait()
        return link.pings

    over = asyncio.Event()
    with asyncio.Runner() as runner:
        pings = runner.run(silence())

    assert pings == 1
    assert closed == ["the server did not answer a ping within 0.02 s"]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_connection_that_is_given_up_is_cut_off(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits until a server that is gone has taken what is still to be written."""
    over = threading.Event()

    def deaf(peer: Peer) -> None:
        peer.greet((Setting.INITIAL_WINDOW_SIZE, 1 << 30))
        peer.send(window_update(0, 1 << 30))
        assert over.wait(20)

    monkeypatch.setattr(http2_link, "Keepalive", partial(Keepalive, answer_s=0.05))
    with scripted(deaf) as server, calling(kind, server.address, keepalive_s=0.05) as caller:
        with pytest.raises(InferenceError, match="did not answer a ping"):
            caller.unary(bytes(64 << 20))
        pool = caller.channel._pool
        for _ in range(50):
            caller.settle()
            time.sleep(0.01)
            left = repr(pool)
        over.set()

    assert "0 connections" in left


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_server_that_answers_pings_is_kept(kind: str) -> None:
    """A slow call on a living connection is left alone."""
    pings: list[bytes] = []

    def slow(peer: Peer) -> None:
        peer.greet()
        number = peer.whole_request()
        while len(pings) < 3:
            ping = peer.wait(lambda frame: frame.type == Type.PING)
            pings.append(ping.payload)
            peer.send(bytes((0, 0, 8, Type.PING, 1, 0, 0, 0, 0)), ping.payload)
        peer.answer(number, b"at last")

    with (
        scripted(slow) as server,
        calling(kind, server.address, keepalive_s=0.02) as caller,
    ):
        assert caller.unary() == b"at last"
