"""A real model for clients of Text Generation Inference, and of the protocol's own generate."""

import json
from typing import Any

import pytest
from tests.e2e.language_models import PROMPT, is_idle, metrics, wait_until
from tests.e2e.running import Running
from tests.faces.serving_languages import events

GENERATE = "/v2/models/tiny/generate"


def tgi(web: Any, path: str = "/generate", inputs: str = PROMPT, **parameters: Any) -> Any:
    """What TGI's interface answers to a prompt."""
    given = {"max_new_tokens": 8, **parameters}
    return web.post(path, json={"inputs": inputs, "parameters": given})


def oip(web: Any, path: str = "", **document: Any) -> Any:
    """What the protocol's interface answers to an object."""
    return web.post(GENERATE + path, json={"text_input": PROMPT, **document})


def test_a_text_is_told_with_its_tokens_and_those_of_the_prompt(web: Any) -> None:
    """They add up to it; headers say what it took."""
    answer = tgi(web, details=True, decoder_input_details=True, top_n_tokens=2)

    said, details = answer.json(), answer.json()["details"]
    assert "".join(token["text"] for token in details["tokens"]) == said["generated_text"]
    assert PROMPT.endswith("".join(token["text"] for token in details["prefill"]))
    assert all(token["logprob"] < 0 for token in details["prefill"])
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 8)
    for token, top in zip(details["tokens"], details["top_tokens"], strict=True):
        assert [token["id"], 2] == [top[0]["id"], len(top)]
    assert answer.headers["x-generated-tokens"] == "8"
    assert int(answer.headers["x-prompt-tokens"]) == len(details["prefill"]) + 1
    assert float(answer.headers["x-queue-time"]) >= 0
    assert float(answer.headers["x-time-per-token"]) > 0


def test_events_bring_the_tokens_one_by_one_and_the_whole_at_the_end(web: Any) -> None:
    """The same text as the whole answer's, by either path."""
    whole = tgi(web, details=True).json()

    told = [json.loads(e) for e in events(tgi(web, "/generate_stream").text)]
    either = web.post("/", json={"inputs": PROMPT, "stream": True}).text

    assert [e["token"]["id"] for e in told] == [t["id"] for t in whole["details"]["tokens"]]
    assert "".join(e["token"]["text"] for e in told) == whole["generated_text"]
    assert [e["generated_text"] for e in told] == [None] * 7 + [whole["generated_text"]]
    assert told[-1]["details"]["generated_tokens"] == 8
    assert json.loads(events(either)[0])["token"] == told[0]["token"]
    assert tgi(web, "/").json()[0]["generated_text"] == whole["generated_text"]


def test_a_seed_gives_the_text_again_and_a_form_binds_it(web: Any) -> None:
    """And what stopped a text is at its end."""
    first = tgi(web, do_sample=True, details=True).json()
    again = tgi(web, do_sample=True, seed=first["details"]["seed"]).json()
    bound = tgi(web, grammar={"type": "regex", "value": "[ab]{5}"}).json()["generated_text"]
    whole = tgi(web).json()["generated_text"]
    stopped = tgi(web, stop=[whole[2:4]]).json()["generated_text"]

    assert again["generated_text"] == first["generated_text"]
    assert set(bound) <= {"a", "b"}
    assert len(bound) == 5
    assert stopped == whole[:4]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_new_tokens": 5000}, "more than the 512 tokens"),
        ({"inputs": "x " * 2000}, "expected at most 511"),
        ({"temperature": -1}, "temperature"),
        ({"grammar": {"type": "regex", "value": "(("}}, "regex"),
    ],
)
def test_what_makes_no_sense_is_refused_in_tgis_form(
    web: Any, path: str, wrong: dict[str, Any], words: str
) -> None:
    """Also if it would have been a stream."""
    answer = tgi(web, path, **wrong)

    assert answer.status_code == 422
    assert answer.json()["error_type"] == "validation"
    assert words in answer.json()["error"]


def test_the_protocols_own_form_and_tritons_give_the_same_text(web: Any) -> None:
    """The one in `parameters`, the other flat; in pieces too."""
    nested = oip(web, parameters={"temperature": 0, "max_tokens": 6}).json()
    flat = oip(web, temperature=0, max_tokens=6, return_finish_reason=True).json()
    sampling = oip(web, sampling_parameters={"temperature": 0, "max_tokens": 6}).json()
    pieces = oip(web, "_stream", parameters={"temperature": 0, "max_tokens": 6})

    told = [json.loads(each)["text_output"] for each in events(pieces.text)]
    assert nested["text_output"] == flat["text_output"] == sampling["text_output"]
    assert "".join(told) == flat["text_output"]
    assert len(told) > 1
    assert (flat["finish_reason"], flat["model_name"]) == ("length", "tiny")


def test_details_say_how_a_text_came_about(web: Any) -> None:
    """All tokens with a whole answer, each with its own piece of a stream."""
    asked = {"temperature": 0, "max_tokens": 4, "details": True}

    whole = oip(web, parameters=asked).json()
    pieces = [json.loads(e) for e in events(oip(web, "_stream", parameters=asked).text)]

    tokens = whole["details"]["logprobs"]
    assert "".join(token["text"] for token in tokens) == whole["text_output"]
    assert [piece["details"]["token"] for piece in pieces] == [
        token | {"logprob": pytest.approx(token["logprob"], abs=1e-4)} for token in tokens
    ]
    assert pieces[-1]["details"]["finish_reason"] == whole["details"]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["", "_stream"])
def test_what_makes_no_sense_is_refused_by_generate(web: Any, path: str) -> None:
    """With a status; an answer that is whole cannot be asked to come in pieces."""
    zero = oip(web, path, max_tokens=0)
    long = oip(web, path, max_tokens=5000)
    form = oip(web, path, parameters={"regex": "(("})

    assert {zero.status_code, long.status_code, form.status_code} == {400}
    assert "max_tokens" in zero.json()["error"]
    assert "512" in long.json()["error"]


@pytest.mark.parametrize("path", ["/generate_stream", f"{GENERATE}_stream"])
def test_a_client_that_leaves_in_the_middle_frees_the_engine(
    web: Any, running: Running, path: str
) -> None:
    """By every interface."""
    asked = {"inputs": PROMPT, "parameters": {"max_new_tokens": 500}}
    if path.startswith("/v2"):
        asked = {"text_input": PROMPT, "parameters": {"max_tokens": 500, "ignore_eos": True}}
    before = metrics(running)["generation_tokens_total"]

    with web.stream("POST", path, json=asked) as answer:
        next(answer.iter_text())

    wait_until(lambda: is_idle(running))
    assert metrics(running)["generation_tokens_total"] - before < 500
