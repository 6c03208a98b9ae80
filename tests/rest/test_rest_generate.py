"""generate and generate_stream: one flat answer, or events as they come; who leaves is noticed."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.running import MODELS, Running, ServerThread
from tests.e2e.test_abandoned import until
from tests.rest.serving import connected, http_options, url
from tests.server_process import write_model

ENDLESS = """
from pathlib import Path

def predict(IN):
    n = 0
    try:
        while True:
            yield {"OUT": IN * 0 + n}
            n += 1
    finally:
        Path(__file__).with_name("ended").touch()
"""
FAILING = """
def predict(IN):
    yield {"OUT": IN}
    raise ValueError("no more")
"""
TEXT = """
def predict(text_input, max_tokens=None):
    more = "" if max_tokens is None else f" {max_tokens[0][0]}"
    return {"text_output": [[text_input[0][0].decode() + more]], "scores": [[0.5, 1.5]]}
"""
TEXT_CONFIG = """
backend: "python"
max_batch_size: 1
input { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }
input { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] optional: true }
output { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "scores" data_type: TYPE_FP32 dims: [ 2 ] }
"""
ECHO = "def predict(IN):\n    return {'OUT': IN}\n"
DECOUPLED = "model_transaction_policy { decoupled: true }"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that go on, that fail, and one that has text."""
    root = tmp_path_factory.mktemp("models")
    write_model(root, "endless", ENDLESS, DECOUPLED)
    write_model(root, "failing", FAILING, DECOUPLED)
    write_model(root, "echo", ECHO)
    (write_model(root, "text", TEXT) / "config.pbtxt").write_text(TEXT_CONFIG)
    return root


@pytest.fixture(scope="module")
def running(models: Path) -> Iterator[Running]:
    with ServerThread(http_options([MODELS, models])) as made:
        yield made


@pytest.fixture
def web(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(running, "/v2/models"), timeout=20) as made:
        yield made


def events(text: str) -> list[Any]:
    """The documents of the events."""
    pieces = text.split("\n\n")
    assert pieces.pop() == ""
    return [json.loads(piece.removeprefix("data: ")) for piece in pieces]


def repeat(*values: int) -> dict[str, Any]:
    """A request for one response for each value."""
    return {"IN": list(values), "DELAY": [0] * len(values), "WAIT": 0}


def test_a_flat_object_becomes_a_flat_object(web: httpx.Client) -> None:
    """A single value comes as itself, several as an array; the id is echoed."""
    answer = web.post("/text/generate", json={"text_input": "hello", "max_tokens": 7, "id": "r"})

    assert answer.json() == {
        "id": "r",
        "model_name": "text",
        "model_version": "1",
        "text_output": "hello 7",
        "scores": [0.5, 1.5],
    }


def test_the_object_parameters_may_hold_inputs(web: httpx.Client) -> None:
    """As Triton's own examples have it; what is no input is a parameter."""
    document = {"text_input": "hello", "parameters": {"max_tokens": 9, "stream": False}}

    assert web.post("/text/versions/1/generate", json=document).json()["text_output"] == "hello 9"


def test_generate_wants_exactly_one_response(web: httpx.Client) -> None:
    """Of a decoupled model too; with none or more it is an error of the server's side."""
    one = web.post("/repeat_int32/generate", json=repeat(5))
    two = web.post("/repeat_int32/generate", json=repeat(5, 6))
    none = web.post("/repeat_int32/generate", json={"IN": [], "DELAY": [], "WAIT": 0})

    assert (one.status_code, one.json()["OUT"]) == (200, 5)
    assert (two.status_code, "expected a single response, got 2" in two.text) == (500, True)
    assert none.status_code >= 400


@pytest.mark.parametrize("path", ["/text/generate", "/text/generate_stream"])
def test_a_refusal_has_its_status_and_its_text(web: httpx.Client, path: str) -> None:
    """Also of a stream, as long as nothing of it was sent."""
    missing = web.post(path, json={"max_tokens": 1, "id": "r"})
    wrong = web.post(path, json={"text_input": 1})
    unknown = web.post(path.replace("text", "nowhere"), json={})

    assert (missing.status_code, wrong.status_code, unknown.status_code) == (400, 400, 404)
    assert missing.json()["error"].startswith("[request id: r] expected number of inputs between 1")
    assert "expected strings" in wrong.json()["error"]


def test_a_stream_brings_every_response_as_an_event(web: httpx.Client) -> None:
    """In order, of decoupled models and of others."""
    many = web.post("/repeat_int32/generate_stream", json=repeat(4, 5, 6))
    one = web.post("/text/generate_stream", json={"text_input": "hello"})

    assert many.headers["content-type"].startswith("text/event-stream")
    assert [(event["OUT"], event["IDX"]) for event in events(many.text)] == [(4, 0), (5, 1), (6, 2)]
    assert [event["text_output"] for event in events(one.text)] == ["hello"]


def test_the_empty_last_response_is_told_if_it_is_asked_for(web: httpx.Client) -> None:
    """With the parameter that asks for it over gRPC."""
    asked = repeat(4) | {"triton_enable_empty_final_response": True}

    found = events(web.post("/repeat_int32/generate_stream", json=asked).text)

    assert [event["triton_final_response"] for event in found] == [False, True]
    assert "OUT" not in found[1]


def test_an_error_in_the_middle_is_the_last_event(web: httpx.Client) -> None:
    """What came before it was sent, and the status with it."""
    answer = web.post("/failing/generate_stream", json={"IN": 2.0, "id": "x"})

    first, last = events(answer.text)
    assert (answer.status_code, first["OUT"]) == (200, 2.0)
    assert last["error"].startswith("[request id: x] ")


def test_who_leaves_a_stream_ends_its_model(running: Running, models: Path) -> None:
    """The generator is closed, and nothing of the request is left."""
    ended = models / "endless" / "1" / "ended"
    body = b'{"IN": 1.0}'
    head = (
        b"POST /v2/models/endless/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    )
    with connected(running) as connection:
        connection.sendall(head % len(body) + body)
        got = b""
        while got.count(b"data: ") < 3:
            got += connection.recv(4096)
        assert not ended.exists()

    asyncio.run(until(ended.exists))
    asyncio.run(until(lambda: is_idle(running)))


def is_idle(running: Running) -> bool:
    """Whether nothing of any request is left anywhere."""
    services = running.server.services
    inside = services.gate.inflight, services.budget.used, running.server.core.inflight
    return inside == (0, 0, 0)


def test_a_deadline_ends_a_stream(web: httpx.Client, running: Running) -> None:
    """What was sent is not taken back; the last event says what happened."""
    answer = web.post(
        "/endless/generate_stream", json={"IN": 1.0}, headers={"grpc-timeout": "500m"}
    )

    assert "deadline exceeded" in events(answer.text)[-1]["error"].lower()
    asyncio.run(until(lambda: is_idle(running)))
