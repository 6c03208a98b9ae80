"""generate of models that generate text: the protocol's form and Triton's, on the same paths."""

import json
from typing import Any

import httpx
import pytest
from tests.rest.test_rest_generate import events

TEXT = "hello big world"


def post(web: httpx.Client, path: str = "generate", **document: Any) -> Any:
    return web.post(f"/v2/models/words/{path}", json={"text_input": TEXT, **document})


def test_parameters_of_the_protocol_are_taken(web: httpx.Client) -> None:
    """With details there is the reason of the end, in the protocol's words, and the tokens."""
    plain = post(web, parameters={"temperature": 0.5, "max_tokens": 2}).json()
    told = post(web, parameters={"max_tokens": 9, "stop": ["big"], "details": True}).json()

    assert plain["text_output"] == "hello"
    assert (told["text_output"], told["model_name"]) == ("hello", "words")
    assert told["details"]["finish_reason"] == "stop_sequence"
    assert [token["text"] for token in told["details"]["logprobs"]] == ["hell", "o"]


def test_a_stream_tells_each_token(web: httpx.Client) -> None:
    """The reason comes with the last of them."""
    found = events(post(web, "generate_stream", parameters={"details": True}).text)

    assert "".join(event["text_output"] for event in found) == TEXT
    assert [event["details"]["token"]["text"] for event in found][:2] == ["hell", "o"]
    assert [event["details"]["finish_reason"] for event in found] == [None] * 4 + ["eos_token"]


@pytest.mark.parametrize("given", ['{"max_tokens": 1}', {"max_tokens": 1}])
def test_sampling_parameters_are_an_object_or_its_text(web: httpx.Client, given: Any) -> None:
    """Triton's clients send a text."""
    assert post(web, sampling_parameters=given).json()["text_output"] == "hell"


def test_lists_and_objects_are_sampling_parameters(web: httpx.Client) -> None:
    """A parameter of the protocol would not hold them; a number is one."""
    document = {"text_input": "!show", "bad_words": ["x"], "logit_bias": {"3": 1}, "max_tokens": 99}

    answer = web.post("/v2/models/words/generate", json=document).json()
    sampling = json.loads(answer["text_output"])["sampling"]

    assert sampling == {"bad_words": ["x"], "logit_bias": {"3": 1}, "max_tokens": 99}


def test_the_path_says_whether_the_answer_comes_in_pieces(web: httpx.Client) -> None:
    """Whoever says otherwise is obeyed where there may be many, and refused else."""
    whole = events(post(web, "generate_stream", stream=False).text)
    many = events(post(web, "generate_stream", stream=True).text)
    refused = post(web, stream=True)

    assert [event["text_output"] for event in whole] == [TEXT]
    assert len(many) == 5
    assert (refused.status_code, "generate_stream" in refused.json()["error"]) == (400, True)


def test_what_is_wrong_is_told(web: httpx.Client) -> None:
    """With the status that generate has for it."""
    twice = post(web, max_tokens=1, parameters={"max_tokens": 2})
    flag = post(web, parameters={"details": "yes"})
    text = post(web, sampling_parameters="{")

    assert [answer.status_code for answer in (twice, flag, text)] == [400, 400, 400]
