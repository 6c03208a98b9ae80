"""Threads, loops, names and silence: what lives around the connections of our HTTP/2 client."""

import asyncio
import gc
import os
import socket
import threading
from typing import Any

import pytest
from tests.http2.client_calls import calling
from tests.http2.frames import Type
from tests.http2.scripted_server import Peer, scripted

from penstock.client.channel import Carrier, ChannelSettings
from penstock.client.errors import InferenceError
from penstock.client.http2_blocking import Http2Channel
from penstock.client.http2_keepalive import Keepalive
from penstock.client.http2_targets import Endpoint, Target, resolve, targets_of
from penstock.client.loop_thread import LoopThread
from penstock.client.sync import Client

NOBODY = ChannelSettings(("127.0.0.1:1",), carrier=Carrier.HTTP2)


def serve(peer: Peer) -> None:
    """A server that answers everything."""
    peer.greet()
    peer.serve(b"answer")


def client_threads() -> list[threading.Thread]:
    """The threads of clients that are alive."""
    return [each for each in threading.enumerate() if each.name == "penstock-client"]


def test_blocking_clients_share_a_thread_that_ends_with_the_last() -> None:
    """However many clients, one loop; and none when none is open."""
    first, second = Http2Channel(NOBODY), Http2Channel(NOBODY)

    while_both = len(client_threads())
    first.close()
    while_one = len(client_threads())
    second.close()

    assert (while_both, while_one, len(client_threads())) == (1, 1, 0)


def test_a_client_that_is_dropped_lets_its_thread_go() -> None:
    """Forgetting to close costs nothing once nobody holds the client."""
    channel = Http2Channel(NOBODY)
    (thread,) = client_threads()

    del channel
    gc.collect()
    thread.join(10)

    assert not thread.is_alive()


def test_a_closed_client_says_so() -> None:
    """A call on it does not wait for ever; closing again is nothing."""
    client = Client("127.0.0.1:1", transport="http2")
    client.close()
    client.close()

    with pytest.raises(ValueError, match="closed"):
        client.server_live()


def test_threads_call_at_once() -> None:
    """Every thread gets the answer to its own call."""
    wrong: list[object] = []

    def work(channel: Any) -> None:
        for _ in range(50):
            answer = channel.unary("/s/M", b"x", 20, ())
            if answer != b"answer":
                wrong.append(answer)

    with scripted(serve) as server, calling("threads", server.address) as caller:
        threads = [threading.Thread(target=work, args=(caller.channel,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert server.connections == 1


def test_actions_are_done_in_order_and_after_the_end_as_well() -> None:
    """Whatever is posted happens, so that nobody waits for something that never will."""
    done: list[int] = []
    thread = LoopThread.shared()

    for number in range(1000):
        thread.post(done.append, number)
    thread.release()
    thread.post(done.append, 1000)

    assert done == list(range(1001))


def test_a_silent_server_is_pinged_and_given_up() -> None:
    """No answer to a ping within its time, and the calls on the connection fail."""
    closed: list[str] = []

    class Link:
        pings = 0

        def busy(self) -> bool:
            return True

        def ping(self) -> None:
            self.pings += 1

        def close(self, reason: str) -> None:
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


def test_a_name_that_nobody_knows_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that it is the name, and asking again is held back."""
    asked: list[Any] = []

    def unknown(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with calling("tasks", "dns:///nowhere.invalid:1") as caller:
        for _ in range(3):
            with pytest.raises(InferenceError, match="DNS resolution failed"):
                caller.unary()

    assert len(asked) == 1


def test_calls_go_round_all_addresses_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `dns:` target is every server that its name stands for."""
    known = {"a": "127.0.0.1", "b": "127.0.0.2"}

    def addresses(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        hosts = known.values() if host == "pods" else [host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    with asyncio.Runner() as runner:
        found = runner.run(resolve(targets_of(("dns:///pods:81",))[0]))

    assert [str(endpoint) for endpoint in found] == ["127.0.0.1:81", "127.0.0.2:81"]
    assert {endpoint.authority for endpoint in found} == {"pods:81"}


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("localhost:1", Endpoint("localhost", 1)),
        ("[::1]:1", Endpoint("::1", 1)),
        ("ipv4:10.0.0.1:1", Endpoint("10.0.0.1", 1)),
        ("ipv6:[::1]:1", Endpoint("::1", 1)),
        ("unix:/run/s", Endpoint(path="/run/s")),
        ("unix:///run/s", Endpoint(path="/run/s")),
        ("unix:s", Endpoint(path="s")),
        ("unix-abstract:s", Endpoint(path="\0s")),
    ],
)
def test_addresses_are_read_as_grpc_reads_them(address: str, endpoint: Endpoint) -> None:
    """Every scheme of gRPC that names one socket names the same one here."""
    assert targets_of((address,)) == (Target(endpoint),)


def test_equal_addresses_are_one_and_a_name_may_be_many() -> None:
    """What is given twice is connected to once."""
    targets = targets_of(("a:1", "a:1", "dns:///a:1", "dns://resolver/b:2"))

    assert targets == (
        Target(Endpoint("a", 1)),
        Target(Endpoint("a", 1), many=True),
        Target(Endpoint("b", 2), many=True),
    )


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_needs_a_client_of_its_own() -> None:
    """The loop stayed behind: a call says so instead of waiting for it, and a new client works."""
    with scripted(serve) as server, calling("threads", server.address) as caller:
        assert caller.unary() == b"answer"
        child = os.fork()
        if child == 0:
            os._exit(in_the_child(caller.channel, server.address))

        assert os.waitpid(child, 0)[1] == 0
        assert caller.unary() == b"answer"


def in_the_child(inherited: Http2Channel, address: str) -> int:
    """0 if all is as it should be; nothing may leave the child but a number."""
    try:
        inherited.unary("/s/M", b"x", 20, ())
    except ValueError:
        inherited.close()
        own = Http2Channel(ChannelSettings((address,), carrier=Carrier.HTTP2))
        answer = own.unary("/s/M", b"x", 20, ())
        own.close()
        return 0 if answer == b"answer" else 2
    return 1
