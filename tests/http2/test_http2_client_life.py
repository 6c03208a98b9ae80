"""Threads, loops and names: what lives around the connections of our HTTP/2 client."""

import asyncio
import gc
import os
import socket
import threading
from typing import Any

import pytest
from tests.http2.client_calls import calling
from tests.http2.scripted_server import Peer, scripted

from penstock.client.channel import Carrier, ChannelSettings
from penstock.client.errors import InferenceError
from penstock.client.http2_blocking import Http2Channel
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


def test_two_threads_that_close_a_client_leave_the_others_their_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client gives the thread back once, also when its first close still waits."""
    closing, go = threading.Event(), threading.Event()
    other, channel = Http2Channel(NOBODY), Http2Channel(NOBODY)
    run = channel._thread.run

    def slowly(coroutine: Any) -> Any:
        closing.set()
        assert go.wait(20)
        return run(coroutine)

    with monkeypatch.context() as patch:
        patch.setattr(channel._thread, "run", slowly)
        closers = [threading.Thread(target=channel.close) for _ in range(2)]
        closers[0].start()
        assert closing.wait(20)
        closers[1].start()
        closers[1].join(0.2)
        go.set()
        for closer in closers:
            closer.join(20)

    assert len(client_threads()) == 1
    with pytest.raises(InferenceError, match="UNAVAILABLE"):
        other.unary("/s/M", b"x", 20, ())
    other.close()
    assert client_threads() == []


def test_an_interrupt_while_a_client_is_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the thread nor a client that cannot be dropped."""

    def interrupted(_: LoopThread, coroutine: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(LoopThread, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Http2Channel(NOBODY)
    gc.collect()
    for thread in client_threads():
        thread.join(10)

    assert client_threads() == []


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
