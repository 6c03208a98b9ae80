"""The HTTP port as an operator and a hostile caller find it: bounds, drain, what is restricted."""

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.running import MODELS, Running, ServerThread
from tests.e2e.test_abandoned import until
from tests.rest.serving import (
    address,
    connected,
    document,
    http_options,
    until_closed,
    url,
)
from tests.rest.test_rest_generate import is_idle
from tests.server_process import server_process, write_model
from uvicorn.protocols.http.h11_impl import H11Protocol

from penstock.embedded import BackgroundServer
from penstock.rest import port, protocol
from penstock.rest.guard import SHUTTING_DOWN
from penstock_runtime.errors import FailedPrecondition, Unavailable

HELD = """
import time
from pathlib import Path

def predict(IN):
    Path(__file__).with_name("began").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.002)
    return {"OUT": IN}
"""
TELLS = """
from penstock import Context

def predict(IN, context: Context):
    context.response_parameters = dict(context.parameters)
    return {"OUT": IN}
"""
LARGE = """
import numpy as np

def predict(IN):
    return {"OUT": np.zeros(int(IN[0]), np.float32)}
"""
IN = {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [1], "data": [1.5]}]}
SECRET = "hunter2=admin"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_model(root, "held", HELD)
    write_model(root, "tells", TELLS)
    (write_model(root, "large", LARGE) / "config.pbtxt").write_text(
        'backend: "python"\ninput { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }\n'
        'output { name: "OUT" data_type: TYPE_FP32 dims: [ -1 ] }\n'
    )
    return root


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[Running]:
    """A server with small bounds, restricted groups and headers that models see."""
    settings = http_options(
        [MODELS, models],
        http_max_input_size=1 << 20,
        http_header_forward_pattern="^(x-|admin)",
        http_restricted_api=(f"model-repository,logging:Admin-Key={SECRET}",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def web(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(running, ""), timeout=20) as made:
        yield made


INFER = "/v2/models/simple/infer"
BOMB = gzip.compress(bytes(2 << 20), mtime=0)


# -- what is no request --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code", "part"),
    [
        ("GET", "/v1", b"", {}, 404, "not served here"),
        ("GET", "/", b"", {}, 405, "expected POST"),
        ("GET", "//v2/health/live", b"", {}, 404, "not served here"),
        ("GET", "/v2/", b"", {}, 404, "not served here"),
        ("GET", "/v2/models/", b"", {}, 404, "not served here"),
        ("GET", "/v2/models/..%2fx/config", b"", {}, 404, "not served here"),
        ("GET", INFER, b"", {}, 405, "expected POST"),
        ("DELETE", "/v2", b"", {}, 405, "expected GET"),
        ("POST", INFER, b"", {}, 400, "has no 'inputs'"),
        ("POST", INFER, b"{", {}, 400, "is not JSON"),
        ("POST", INFER, b"[" * 101, {}, 400, "nested more than 100 deep"),
        ("POST", INFER, b'{"inputs":[],"inputs":[]}', {}, 400, "is twice in one object"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "a number of bytes"),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "3"}, 400, "the body has 2"),
        ("POST", INFER, b"x", {"Content-Encoding": "br"}, 415, "is not supported"),
        ("POST", INFER, b"x", {"Content-Encoding": "gzip"}, 400, "cut off"),
        ("POST", INFER, BOMB, {"Content-Encoding": "gzip"}, 413, "1048576"),
        ("POST", INFER, bytes((1 << 20) + 1), {}, 413, "1048576"),
        ("POST", INFER, b"{}", {"grpc-timeout": "soon"}, 400, "grpc-timeout"),
        ("GET", "/v2/models/m%00/config", b"", {}, 404, "unknown model"),
        ("GET", f"/v2/models/{'x' * 9000}/config", b"", {}, 404, "unknown model"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_status_and_its_words(
    web: httpx.Client, method: str, path: str, body: bytes, headers: Any, code: int, part: str
) -> None:
    """One object with one text, whatever it is; the next request is answered."""
    answer = web.request(method, path, content=body, headers=headers)

    assert answer.status_code == code
    assert part in answer.json()["error"]
    assert "Traceback" not in answer.text
    assert web.post(INFER, json=document()).status_code == 200


def test_a_body_without_a_length_has_the_same_bound(web: httpx.Client) -> None:
    """Chunks are counted as they come."""
    answer = web.post(INFER, content=(bytes(1 << 16) for _ in range(32)))

    assert answer.status_code == 413


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v2 HT", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_a_connection_that_says_nothing_sensible_is_closed(
    running: Running, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence, half a head, TLS and HTTP/2: after the time that a head may take, or at once."""
    monkeypatch.setattr(protocol, "HEAD_S", 0.1)
    with connected(running) as connection:
        connection.sendall(sent)

        assert b" 200 " not in until_closed(connection)


def test_a_head_without_an_end_is_cut(running: Running) -> None:
    """One header that goes on, and many of them."""
    for line in (b"x" * 100_000, b"a: b\r\n" * 20_000):
        with connected(running) as connection:
            try:
                connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\ny: " + line)
                assert b" 200 " not in until_closed(connection)
            except (ConnectionResetError, BrokenPipeError):
                continue


def test_requests_behind_each_other_are_answered_in_order(running: Running) -> None:
    """Pipelined, on one connection."""
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(running) as connection:
        connection.sendall(one * 3 + last)
        got = until_closed(connection)

    assert got.count(b"HTTP/1.1 200 OK") == 4
    assert got.endswith(b"}")


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/models/simple/config", "/v2/logging"])
def test_who_is_refused_with_a_large_body_sees_why(web: httpx.Client, path: str) -> None:
    """The body is let pass, so that the answer is not lost with the connection."""
    answers = [web.post(path, content=bytes(900_000)) for _ in range(3)]

    assert all(answer.status_code in (403, 404, 405) for answer in answers)
    assert all(answer.json()["error"] for answer in answers)


def test_a_decoupled_model_has_no_single_answer(web: httpx.Client) -> None:
    """501, in Triton's words for this port."""
    entries = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [0]}
        for name, datatype in (("IN", "INT32"), ("DELAY", "UINT32"), ("WAIT", "UINT32"))
    ]

    answer = web.post("/v2/models/repeat_int32/infer", json={"inputs": entries})

    text = "HTTP end point doesn't support models with decoupled transaction policy"
    assert (answer.status_code, answer.json()) == (501, {"error": text})


# -- who leaves, who is late, who does not read --------------------------------------------------


def test_who_leaves_cancels_the_request(running: Running, models: Path) -> None:
    """The model's answer is not waited for, and nothing of the request is left."""
    began = models / "held" / "1" / "began"
    body = json.dumps(IN).encode()
    with connected(running) as connection:
        head = b"POST /v2/models/held/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        asyncio.run(until(began.exists))
        assert running.server.services.gate.inflight == 1

    gate = running.server.services.gate
    asyncio.run(until(lambda: gate.inflight == 0))
    (models / "held" / "1" / "go").touch()
    asyncio.run(until(lambda: is_idle(running)))


def test_a_deadline_is_kept(web: httpx.Client, models: Path, running: Running) -> None:
    """504, in the header that gRPC has for it."""
    go = models / "held" / "1" / "go"
    go.unlink(missing_ok=True)

    answer = web.post("/v2/models/held/infer", json=IN, headers={"grpc-timeout": "50m"})

    assert answer.status_code == 504
    assert "deadline exceeded" in answer.json()["error"].lower()
    go.touch()
    asyncio.run(until(lambda: is_idle(running)))


def test_who_does_not_read_is_cut_off(models: Path) -> None:
    """An answer that nobody takes holds nothing for longer than a reader may stall."""
    body = json.dumps(IN | {"parameters": {"binary_data_output": True}})
    body = body.replace("1.5", str(16 << 20))
    head = b"POST /v2/models/large/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    settings = http_options([models], stream_stall_secs=0.1)
    with ServerThread(settings) as running, connected(running) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head % len(body) + body.encode())
        connection.recv(1)

        asyncio.run(until(lambda: is_idle(running)))


def test_a_large_answer_arrives_whole(web: httpx.Client) -> None:
    """In pieces, to one who reads."""
    body = json.dumps(IN | {"parameters": {"binary_data_output": True}})

    answer = web.post("/v2/models/large/infer", content=body.replace("1.5", "1000000"))

    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.content[length:] == bytes(4_000_000)


# -- secrets, headers, records -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/r/index"),
        ("POST", "/v2/repository/models/simple/load"),
        ("GET", "/v2/logging"),
        ("POST", "/v2%2Flogging"),
        ("HEAD", "/v2/logging"),
    ],
)
def test_what_is_restricted_answers_only_who_knows_the_secret(
    web: httpx.Client, method: str, path: str
) -> None:
    """By the route, however its path is written: 403 in Triton's words, and the secret in none."""
    outcomes = [
        web.request(method, path, headers=headers)
        for headers in ({}, {"Admin-Key": "guess"}, {"Admin-Key": ""})
    ]
    let_in = web.request(method, path, headers={"Admin-Key": SECRET})

    assert [answer.status_code for answer in outcomes] == [403] * 3
    assert let_in.status_code != 403
    text = {"error": "This API is restricted, expecting header 'admin-key'"}
    assert method == "HEAD" or all(answer.json() == text for answer in outcomes)


def test_what_is_not_restricted_answers_everyone(web: httpx.Client) -> None:
    """Only the groups that were named."""
    assert web.get("/v2/models/simple/config").status_code == 200


def test_models_see_the_headers_that_are_forwarded_but_no_secret(web: httpx.Client) -> None:
    """As parameters; the header of a secret is not among them, whatever the pattern says."""
    headers = {"X-Tenant": "a", "Admin-Key": SECRET, "Other": "b"}

    answer = web.post("/v2/models/tells/infer", json=IN, headers=headers)

    assert answer.json()["parameters"] == {"x-tenant": "a"}


def test_a_reserved_header_is_not_forwarded(models: Path) -> None:
    """A caller cannot set by a header what it may not set by a parameter."""
    settings = http_options([models], http_header_forward_pattern=".*")
    with ServerThread(settings) as running:
        answer = httpx.post(
            url(running, "/v2/models/tells/infer"), json=IN, headers={"triton_x": "1"}
        )

    assert answer.status_code == 400
    assert "Header 'triton_x' is reserved for Triton usage" in answer.json()["error"]


def test_requests_are_counted_by_route_and_status(web: httpx.Client) -> None:
    """No path of a caller's own becomes a label."""
    web.post(INFER, json=document())
    web.get("/v2/models/nobody/config")
    web.get("/nothing/of/this")

    lines = web.get("/metrics").text.splitlines()

    counted = [line for line in lines if line.startswith("penstock_http_requests_total{")]
    assert any(
        'route="/v2/models/{model}/infer"' in line and 'code="200"' in line for line in counted
    )
    assert any('route="unknown"' in line and 'code="404"' in line for line in counted)
    assert not any("nobody" in line or "nothing" in line for line in counted)


def test_health_is_told_without_a_client_of_ours(web: httpx.Client) -> None:
    """For probes: 200, or 503."""
    assert web.get("/v2/health/live").json() == {"live": True}
    assert web.get("/v2/health/ready").json() == {"ready": True}
    assert web.get("/health").status_code == 200
    assert web.get("/v2/models/simple/ready").json() == {"name": "simple", "ready": True}
    assert web.get("/v2/models/simple/versions/7/ready").status_code == 503


# -- start and end -------------------------------------------------------------------------------


def test_a_port_that_is_taken_ends_the_start(models: Path, running: Running) -> None:
    """And the text says which flag chooses another."""
    taken = int(address(running).rpartition(":")[2])
    with (
        pytest.raises(
            FailedPrecondition, match=f"port {taken} on 127.0.0.1 is in use.*--http-port"
        ),
        BackgroundServer(http_options([models], http_port=taken)),
    ):
        pass


def test_without_its_libraries_a_server_that_is_asked_for_http_does_not_start(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to install."""
    monkeypatch.setattr("penstock.http_side.http_is_installed", lambda: False)
    with (
        pytest.raises(FailedPrecondition, match=r"pip install 'penstock\[http\]'"),
        BackgroundServer(http_options([models])),
    ):
        pass


def test_a_unix_socket_may_be_the_port(models: Path, tmp_path: Path) -> None:
    """Its file is gone when the server is."""
    path = tmp_path / "s"
    with (
        BackgroundServer(http_options([models], http_address=f"unix:{path}")),
        httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client,
    ):
        answer = client.post("http://x/v2/models/tells/infer", json=IN)

    assert answer.status_code == 200
    assert not path.exists()


def test_an_embedded_server_has_no_http_unless_it_is_asked_for(models: Path) -> None:
    """Who embeds a server opens what is needed; with uvloop where that is installed."""
    with (
        BackgroundServer(http_options([models], allow_http=False)) as without,
        pytest.raises(Unavailable, match="does not serve HTTP"),
    ):
        _ = without.http_address
    with BackgroundServer(http_options([models])) as server:
        answer = httpx.post(f"http://{server.http_address}/v2/models/tells/infer", json=IN)

    assert answer.json()["outputs"][0]["data"] == [1.5]


def test_a_server_that_drains_answers_what_it_has_and_refuses_what_comes(tmp_path: Path) -> None:
    """The request inside is answered; those after it are told to go elsewhere; then it is over."""
    folder = write_model(tmp_path, "held", HELD) / "1"
    answers: list[httpx.Response] = []
    with ServerThread(http_options([tmp_path])) as running:
        gate = running.server.services.gate
        infer = url(running, "/v2/models/held/infer")
        caller = threading.Thread(
            target=lambda: answers.append(httpx.post(infer, json=IN, timeout=20))
        )
        caller.start()
        asyncio.run(until((folder / "began").exists))
        running.loop.call_soon_threadsafe(gate.close)
        asyncio.run(until(lambda: gate.closed))
        refused = httpx.post(infer, json=IN)
        live = httpx.get(url(running, "/v2/health/live"))
        (folder / "go").touch()
        caller.join(20)

    assert (refused.status_code, refused.json()) == (503, {"error": SHUTTING_DOWN})
    assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
    assert (live.status_code, live.json()) == (503, {"error": "Server exiting"})
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(ConnectionRefusedError), connected(running):
        pass


def test_without_httptools_h11_carries_the_calls(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are the same."""
    monkeypatch.setattr(port, "AutoHTTPProtocol", H11Protocol)
    with ServerThread(http_options([MODELS, models])) as running:
        body = json.dumps(IN | {"parameters": {"binary_data_output": True}})
        small = httpx.post(url(running, INFER), json=document())
        body = body.replace("1.5", "1e6")
        large = httpx.post(url(running, "/v2/models/large/infer"), content=body)
        monkeypatch.setattr(protocol, "HEAD_S", 0.1)
        with connected(running) as connection:
            assert until_closed(connection) == b""

    assert small.status_code == 200
    assert len(large.content) > 4_000_000


def asked(connection: socket.socket) -> bool:
    """Whether a request on a bare connection is answered."""
    connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
    got = b""
    while not got.endswith(b"]}"):
        got += connection.recv(4096)
    return b" 200 " in got


def test_connections_beyond_the_cap_are_closed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that are there go on."""
    monkeypatch.setattr(port, "spare_descriptors", lambda: 4)
    with ServerThread(http_options([models])) as running, connected(running) as first:
        assert asked(first)
        with connected(running) as second, connected(running) as third:
            assert asked(second)
            assert until_closed(third) == b""
        assert asked(first)


def test_a_server_process_serves_http_and_says_where(tmp_path: Path) -> None:
    """By the flags of a Triton command line, several processes on one port among them."""
    write_model(tmp_path, "echo", "def predict(IN):\n    return {'OUT': IN}\n")
    flags = ("--allow-http=true", "--http-address=127.0.0.1", "--http-port=0", "--processes=2")
    with server_process(tmp_path, *flags) as server:
        where = server.wait_for("HTTP on").split()[-1]
        server.wait_for("ready: all 2 processes")
        codes = [httpx.post(f"{where}/v2/models/echo/infer", json=IN).status_code for _ in range(4)]

    assert codes == [200] * 4
