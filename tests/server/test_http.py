"""The metrics and health port answers its few paths, and no client can keep it from others."""

import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from penstock.http import MAX_CONNECTIONS, MAX_HEAD_BYTES, MetricsServer
from penstock_runtime.errors import FailedPrecondition


class Served:
    """A running server and what it is to say."""

    def __init__(self, timeout_s: float = 30) -> None:
        self.live = True
        self.ready = True
        self.text = b"up 1\n"
        self.server = MetricsServer(
            "127.0.0.1",
            0,
            self.render,
            lambda: self.live,
            lambda: self.ready,
            timeout_s=timeout_s,
        )
        self.port = self.server.start()

    def render(self) -> bytes:
        if not self.text:
            raise RuntimeError("nothing to say")
        return self.text

    def request(self, path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
            sock.sendall(data)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes, gently or not."""
    data = b""
    while True:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


@pytest.fixture
def served() -> Iterator[Served]:
    """A server on a free port."""
    running = Served()
    yield running
    running.server.stop()


@pytest.fixture
def hasty() -> Iterator[Served]:
    """A server that loses patience with a client soon."""
    running = Served(timeout_s=0.5)
    yield running
    running.server.stop()


def test_metrics_are_plain_text_of_version_0_0_4(served: Served) -> None:
    """The content type is the one that keeps counters' names as they are."""
    status, body, headers = served.request("/metrics?name[]=up")

    assert (status, body) == (200, b"up 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/v2/health/live", "/health"])
def test_liveness_follows_live_alone(served: Served, path: str) -> None:
    """A server that drains or loads is alive; restarting it would help no one."""
    served.ready = False
    assert served.request(path)[0] == 200

    served.live = False

    assert served.request(path)[0] == 503


def test_readiness_follows_ready(served: Served) -> None:
    """503 takes the server out of balancing, 200 puts it back."""
    assert served.request("/v2/health/ready")[0] == 200

    served.ready = False

    assert served.request("/v2/health/ready")[0] == 503


def test_other_paths_and_methods_are_refused_with_what_is_expected(served: Served) -> None:
    """A wrong path lists the right ones; only GET is served."""
    status, body, _ = served.request("/metric")
    assert (status, b"/metrics" in body) == (404, True)

    status, _, headers = served.request("/metrics", "POST")

    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\x01\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /x HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", b"431"),
    ],
)
def test_what_is_not_http_is_refused(served: Served, data: bytes, status: bytes) -> None:
    """Nonsense is answered, and the server goes on."""
    answer = served.raw(data)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert served.request("/health")[0] == 200


def test_a_scrape_that_fails_is_an_error_without_details(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason, the caller has not."""
    served.text = b""

    status, body, _ = served.request("/metrics")

    assert (status, b"nothing to say" in body) == (500, False)
    assert "nothing to say" in caplog.text


def test_a_client_that_says_nothing_is_cut_off(hasty: Served) -> None:
    """Half a request holds its connection for the time-out and no longer."""
    assert hasty.raw(b"GET /metrics HTTP/1.1\r\nHost") == b""


def test_a_client_that_does_not_read_is_cut_off_and_holds_no_one_up(hasty: Served) -> None:
    """A scrape that stalls costs one connection for the time-out."""
    hasty.text = b"x" * 64_000_000
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as stalled:
        stalled.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        first = stalled.recv(1)

        status = hasty.request("/health")[0]
        # Past the time-out: what the kernel already had is read, the whole is never sent.
        while hasty.server.connections:
            threading.Event().wait(0.01)
        rest = len(read_all(stalled))

    assert (first, status) == (b"H", 200)
    assert rest < 64_000_000


def test_more_connections_than_the_limit_are_closed_and_the_others_live(hasty: Served) -> None:
    """A flood is bounded; once it is over the server answers."""
    flood = [
        socket.create_connection(("127.0.0.1", hasty.port), timeout=30)
        for _ in range(MAX_CONNECTIONS + 20)
    ]
    for sock in flood:
        assert read_all(sock) == b""
        sock.close()

    assert hasty.request("/health")[0] == 200


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    """The error says which port of which address, and what the system said."""
    other = MetricsServer("127.0.0.1", served.port, bytes, bool, bool)

    with pytest.raises(FailedPrecondition, match=rf"metrics port {served.port} of 127\.0\.0\.1"):
        other.start()


def test_stopping_ends_the_thread_and_frees_the_port() -> None:
    """A server stopped leaves nothing, even with a connection open."""
    running = Served()
    held = socket.create_connection(("127.0.0.1", running.port), timeout=30)

    running.server.stop()
    running.server.stop()

    assert read_all(held) == b""
    held.close()
    assert not any(thread.name == "penstock-metrics" for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", running.port), timeout=30)
