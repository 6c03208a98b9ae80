"""What goes wrong, in OpenAI's form; who leaves is noticed."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI
from tests.e2e.running import Running, ServerThread
from tests.e2e.test_abandoned import until
from tests.openai_face.fake_text_model import write, write_text_model
from tests.openai_face.test_openai_chat import user
from tests.rest.serving import http_options, url
from tests.rest.test_rest_generate import is_idle


def test_a_refusal_of_the_model_has_its_status(client: OpenAI) -> None:
    """Of a whole answer and of a stream of which nothing was sent, with the field at fault."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="temperature") as wrong:
            client.completions.create(model="words", prompt="!refuse", stream=stream)
        with pytest.raises(openai.RateLimitError, match="queue is full") as full:
            client.completions.create(model="words", prompt="!full", stream=stream)

        assert wrong.value.param == "temperature"
        assert (full.value.code, full.value.type) == ("queue_full", "rate_limit_error")


def test_an_error_in_the_middle_is_an_event(client: OpenAI, web: httpx.Client) -> None:
    """Which the client raises; the stream ends as every stream does."""
    body = {"model": "words", "messages": [{"role": "user", "content": "!break this one"}]}
    with pytest.raises(openai.APIError, match="no more"):
        list(client.completions.create(model="words", prompt="!break this one", stream=True))

    events = web.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")

    assert json.loads(events[-3].removeprefix("data: "))["error"]["type"] == "server_error"
    assert events[-2:] == ["data: [DONE]", ""]
    assert len(events) == 6


def test_one_prompt_that_fails_ends_the_others(web: httpx.Client, serving: Running) -> None:
    """Nothing is left of any of them."""
    body = {"model": "words", "prompt": ["!refuse", "!wait", "!wait"], "stream": True}

    assert web.post("/v1/completions", json=body).status_code == 400
    asyncio.run(until(lambda: is_idle(serving)))


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"a": NaN}', b'{"a": 1, "a": 2}', b""])
def test_what_is_no_object_is_refused(web: httpx.Client, body: bytes) -> None:
    """In the form of all errors."""
    answer = web.post("/v1/chat/completions", content=body)

    assert (answer.status_code, set(answer.json()["error"])) == (
        400,
        {"message", "type", "param", "code"},
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "\\ud800"}',
        b'{"prompt": ["\\ud800"]}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": [99999999999999999999]}',
        b'{"prompt": "a", "logit_bias": ' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_no_text_or_number_is_stays_outside(web: httpx.Client, body: bytes) -> None:
    """Nothing of it reaches the model."""
    assert web.post("/v1/completions", content=body).status_code == 400


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_model(serving: Running, text_models: Path, stream: bool) -> None:
    """At once, whole answer or stream, and nothing of the request is left."""
    left = text_models / "words" / "1" / "left"
    left.unlink(missing_ok=True)

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=url(serving, "/v1"), api_key="x") as client:
            if stream:
                chunks = await client.completions.create(model="words", prompt="!wait", stream=True)
                await anext(aiter(chunks))
                await chunks.close()
                return
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await client.completions.create(model="words", prompt="!wait")

    asyncio.run(leave())
    asyncio.run(until(left.exists))
    asyncio.run(until(lambda: is_idle(serving)))


def test_a_deadline_is_a_time_out(web: httpx.Client, serving: Running) -> None:
    """408 before anything was sent; an event behind what was."""
    body = {"model": "words", "prompt": "!wait"}
    whole = web.post("/v1/completions", json=body, headers={"grpc-timeout": "200m"})
    stream = web.post(
        "/v1/completions", json={**body, "stream": True}, headers={"grpc-timeout": "200m"}
    )

    assert whole.status_code == 408
    assert (stream.status_code, "timeout_error" in stream.text) == (200, True)
    asyncio.run(until(lambda: is_idle(serving)))


TOKENS = [
    {"name": "team", "token": "team", "groups": ["inference", "metadata"], "models": ["words"]},
    {"name": "reader", "token": "reader", "groups": ["metadata"]},
]
PLAIN = "def predict(IN):\n    return {'OUT': IN}\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with two models that generate, and callers who may not use both."""
    root = tmp_path_factory.mktemp("guarded")
    write_text_model(root, "words", 1)
    write_text_model(root, "secret", 1)
    rules = tmp_path_factory.mktemp("auth") / "auth.json"
    rules.write_text(json.dumps({"open": ["none"], "tokens": TOKENS}))
    settings = http_options([root], auth_config=str(rules), http_max_input_size=4096)
    with ServerThread(settings) as made:
        yield made


def caller(guarded: Running, token: str) -> OpenAI:
    return OpenAI(base_url=url(guarded, "/v1"), api_key=token, max_retries=0)


def test_a_key_is_a_token_of_the_server(guarded: Running) -> None:
    """Who is not known is told so, who may not is told that; and nobody sees other models."""
    with caller(guarded, "guess") as unknown, pytest.raises(openai.AuthenticationError):
        unknown.models.list()
    with caller(guarded, "reader") as reader, pytest.raises(openai.PermissionDeniedError):
        reader.completions.create(model="words", prompt="a")
    with caller(guarded, "team") as team:
        assert [model.id for model in team.models.list()] == ["words"]
        assert team.completions.create(model="", prompt="a").choices[0].text == "a"
        with pytest.raises(openai.PermissionDeniedError) as denied:
            team.completions.create(model="secret", prompt="a")

    assert denied.value.code == "model_not_allowed"


def test_a_body_has_its_bound(guarded: Running) -> None:
    """413, in the form of all errors."""
    with caller(guarded, "team") as team, pytest.raises(openai.APIStatusError) as caught:
        team.completions.create(model="words", prompt="a" * 5000)

    assert caught.value.status_code == 413
    assert caught.value.type == "invalid_request_error"


def test_large_requests_and_answers_are_as_others(client: OpenAI) -> None:
    """They are read and written aside."""
    text = "word " * 20_000

    made = client.completions.create(model="words", prompt=text, max_tokens=100_000)
    vectors = client.embeddings.create(model="vectors", input=[text] * 3)

    assert made.choices[0].text == text
    assert [vector.embedding[0] for vector in vectors.data] == [100_000] * 3


def test_requests_are_counted_by_their_route(web: httpx.Client) -> None:
    """As those of every other face."""
    web.post("/v1/completions", json={"model": "words", "prompt": "a"})

    text = web.get("/metrics").text

    counted = '{code="200",method="POST",route="/v1/completions"}'
    assert f"penstock_http_requests_total{counted}" in text


def test_a_model_with_fewer_tensors_is_served(tmp_path: Path) -> None:
    """As those of Triton's vLLM backend are: what is not declared is neither sent nor asked for."""
    config = """
        backend: "python"
        model_transaction_policy { decoupled: true }
        input { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }
        input { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
        output { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] }
    """
    source = """
def predict(text_input, sampling_parameters=None):
    yield {"text_output": text_input}
"""
    write(tmp_path, "small", source, config)
    with (
        ServerThread(http_options([tmp_path])) as running,
        OpenAI(base_url=url(running, "/v1"), api_key="x") as client,
    ):
        made = client.completions.create(model="small", prompt="a b")
        with pytest.raises(openai.BadRequestError, match="takes no 'messages'"):
            client.chat.completions.create(model="small", messages=user("a"))

    assert made.choices[0].text == "a b"
