"""TGI's paths: its parameters become the engine's, its clients find the fields that they know."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.running import Running, ServerThread
from tests.e2e.test_abandoned import until
from tests.openai_face.fake_text_model import write_text_model
from tests.rest.serving import connected, http_options, url
from tests.rest.test_rest_generate import events, is_idle

TEXT = "hello big world"


def post(web: httpx.Client, path: str = "/generate", inputs: str = TEXT, **parameters: Any) -> Any:
    return web.post(path, json={"inputs": inputs, "parameters": parameters})


def shown(web: httpx.Client, **parameters: Any) -> Any:
    """The sampling parameters that the model was given."""
    text = post(web, inputs="!show", max_new_tokens=999, **parameters).json()["generated_text"]
    return json.loads(text)["sampling"]


def test_a_text_goes_on(web: httpx.Client) -> None:
    """With nothing but the text, unless details are asked for."""
    answer = post(web)

    assert answer.json() == {"generated_text": TEXT}
    assert answer.headers["x-generated-tokens"] == "5"
    assert post(web, return_full_text=True).json() == {"generated_text": TEXT + TEXT}


def test_details_tell_the_tokens(web: httpx.Client) -> None:
    """Their ids, texts and probabilities, those of the prompt and the likeliest ones."""
    told = post(
        web, details=True, decoder_input_details=True, top_n_tokens=2, max_new_tokens=2
    ).json()["details"]

    assert (told["finish_reason"], told["generated_tokens"], told["seed"]) == ("length", 2, None)
    assert [token["text"] for token in told["tokens"]] == ["hell", "o"]
    assert set(told["tokens"][0]) == {"id", "text", "logprob", "special"}
    assert [token["text"] for token in told["prefill"]] == ["o", " big", " worl", "d"]
    assert [t["text"] for t in told["top_tokens"][0]] == ["hell", "other"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [({}, "eos_token"), ({"max_new_tokens": 1}, "length"), ({"stop": ["big"]}, "stop_sequence")],
)
def test_the_reason_of_the_end_is_told(
    web: httpx.Client, more: dict[str, Any], reason: str
) -> None:
    """In TGI's words; what stopped the text is part of it."""
    answer = post(web, details=True, **more).json()

    assert answer["details"]["finish_reason"] == reason
    assert answer["generated_text"].endswith("big") == ("stop" in more)


def test_every_token_is_an_event(web: httpx.Client) -> None:
    """The last one has the whole text and what it took."""
    answer = post(web, "/generate_stream", top_n_tokens=1)

    found = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [event["index"] for event in found] == [1, 2, 3, 4, 5]
    assert "".join(event["token"]["text"] for event in found) == TEXT
    assert [event["generated_text"] for event in found] == [None] * 4 + [TEXT]
    assert [top["text"] for top in found[0]["top_tokens"]] == ["hell"]
    assert found[-1]["details"] == {
        "finish_reason": "eos_token", "generated_tokens": 5, "input_length": 5, "seed": None,
    }  # fmt: skip


def test_the_root_is_either(web: httpx.Client) -> None:
    """A whole text in an array, or events, as the field `stream` says."""
    whole = web.post("/", json={"inputs": TEXT})
    stream = web.post("/", json={"inputs": TEXT, "stream": True})

    assert whole.json() == [{"generated_text": TEXT}]
    assert events(stream.text)[-1]["generated_text"] == TEXT


def test_parameters_become_the_engine_s(web: httpx.Client) -> None:
    """The likeliest token is taken unless something asks for sampling; a seed is told then."""
    grammar = {"type": "json", "value": {"type": "object"}}
    greedy = shown(web, repetition_penalty=1.5, stop=["zz"], truncate=9, adapter_id="a")
    sampled = shown(web, top_p=0.5, top_k=4, seed=3, grammar=grammar)
    seed = post(web, do_sample=True, details=True).json()["details"]["seed"]

    assert greedy == {
        "max_tokens": 999, "include_stop_str_in_output": True, "repetition_penalty": 1.5,
        "temperature": 0.0, "stop": ["zz"], "truncate_prompt_tokens": 9, "adapter_id": "a",
        "top_p": 1.0, "top_k": 0,
    }  # fmt: skip
    assert sampled == {
        "max_tokens": 999, "include_stop_str_in_output": True, "top_p": 0.5, "top_k": 4,
        "temperature": 1.0, "seed": 3, "json": {"type": "object"}, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert isinstance(seed, int)


def test_the_best_of_several_comes_first(web: httpx.Client) -> None:
    """The others are among its details."""
    told = post(web, best_of=3, do_sample=True, details=True).json()

    assert told["generated_text"] == TEXT
    assert len(told["details"]["best_of_sequences"]) == 2


@pytest.mark.parametrize(
    "more",
    [
        {"watermark": True}, {"best_of": 2}, {"max_new_tokens": 0}, {"temperature": 0},
        {"temperature": "hot"}, {"do_sample": 1}, {"decoder_input_details": True},
        {"grammar": {"type": "bnf", "value": "a"}}, {"stop": [1]}, {"seed": -1},
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_validation_error(web: httpx.Client, more: dict[str, Any]) -> None:
    """422, and the parameter is named."""
    answer = post(web, **more)

    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert f"parameters.{next(iter(more))}" in answer.json()["error"]


def test_failures_have_tgi_s_statuses(web: httpx.Client) -> None:
    """The model's, the queue's, and that of a stream that has begun."""
    full, refused = post(web, inputs="!full"), post(web, inputs="!refuse")
    broken = events(post(web, "/generate_stream", inputs="!break one two").text)

    assert (full.status_code, full.json()["error_type"]) == (429, "overloaded")
    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert broken[-1]["error_type"] == "generation"
    assert web.post("/generate", json={}).status_code == 422


def test_who_leaves_a_stream_ends_the_model(serving: Running, text_models: Path) -> None:
    """At once."""
    left = text_models / "words" / "1" / "left"
    left.unlink(missing_ok=True)
    body = b'{"inputs": "!wait"}'
    head = b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connected(serving) as connection:
        connection.sendall(head + body)
        got = b""
        while got.count(b"data: ") < 1:
            got += connection.recv(4096)

    asyncio.run(until(left.exists))
    asyncio.run(until(lambda: is_idle(serving)))


def test_of_several_models_one_is_named(tmp_path: Path) -> None:
    """The error lists them; the server tells of the first."""
    write_text_model(tmp_path, "one", 1)
    write_text_model(tmp_path, "two", 1)
    with (
        ServerThread(http_options([tmp_path])) as running,
        httpx.Client(base_url=url(running, ""), timeout=20) as web,
    ):
        unnamed = post(web)
        named = web.post("/generate", json={"inputs": "a", "model": "two"})
        told = web.get("/info").json()

    assert (unnamed.status_code, "one, two" in unnamed.json()["error"]) == (422, True)
    assert named.json() == {"generated_text": "a"}
    assert (told["model_id"], told["models"]) == ("one", ["one", "two"])
