"""Completions as OpenAI's client sees them: prompts, choices, probabilities, pieces."""

import json
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

TEXT = "hello big world"
PIECES = ["hell", "o", " big", " worl", "d"]


def shown(client: OpenAI, **more: Any) -> dict[str, Any]:
    """What the model was given."""
    answer = client.completions.create(model="words", prompt="!show", **{"max_tokens": 999, **more})
    found: dict[str, Any] = json.loads(answer.choices[0].text)
    return found


def test_a_text_goes_on(client: OpenAI) -> None:
    """With what it took, how it ended, and who made it."""
    answer = client.completions.create(model="words", prompt=TEXT)

    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", "words", "cmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    used = answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens
    assert (*used, answer.usage.prompt_tokens_details.cached_tokens) == (5, 5, 10, 2)
    assert str(answer.system_fingerprint).startswith("fp_")


def test_several_prompts_have_their_choices_one_after_the_other(client: OpenAI) -> None:
    """Texts and token ids alike; the numbers run through."""
    answer = client.completions.create(
        model="words", prompt=["a", "bb"], n=2, extra_body={"prompt": ["a", [1, 2]]}
    )
    one = client.completions.create(model="words", prompt=[7, 8])

    assert [(c.index, c.text) for c in answer.choices] == [
        (0, "a"), (1, "a"), (2, "t1 t2"), (3, "t1 t2"),
    ]  # fmt: skip
    assert one.choices[0].text == "t7 t8"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2 + 4


def test_pieces_add_up_to_the_whole(client: OpenAI) -> None:
    """Of each choice of each prompt, whatever their order; what it took comes last."""
    chunks = list(
        client.completions.create(
            model="words", prompt=[TEXT, "on"], n=2, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    texts: dict[int, str] = {}
    for chunk in chunks[:-1]:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    ended = [c.index for chunk in chunks for c in chunk.choices if c.finish_reason == "stop"]
    assert texts == {0: TEXT, 1: TEXT, 2: "on", 3: "on"}
    assert sorted(ended) == [0, 1, 2, 3]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("stream", [False, True])
def test_probabilities_have_offsets_into_the_text(client: OpenAI, stream: bool) -> None:
    """With `echo` those of the prompt come before; nothing is known of its first token."""
    made: Any = client.completions.create(
        model="words", prompt=TEXT, logprobs=2, echo=True, stream=stream
    )
    choices = [chunk.choices[0] for chunk in made] if stream else [made.choices[0]]

    assert "".join(choice.text for choice in choices) == TEXT + TEXT
    assert [t for c in choices for t in c.logprobs.tokens] == PIECES * 2
    assert [t for c in choices for t in c.logprobs.text_offset][:6] == [0, 4, 5, 9, 14, 15]
    assert [t for c in choices for t in c.logprobs.token_logprobs] == [None, *[-0.5] * 9]
    assert choices[-1].logprobs.top_logprobs[-1] == {"d": -0.5, "other": -1.0}


def test_no_tokens_at_all_may_be_asked_for_with_echo(client: OpenAI) -> None:
    """Which is how the probability of a text is found out."""
    answer = client.completions.create(
        model="words", prompt=[4, 5], max_tokens=0, echo=True, logprobs=1
    )

    assert answer.choices[0].text == "t4 t5"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["t4", " t5"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_the_best_are_those_with_the_likeliest_tokens(client: OpenAI) -> None:
    """The fake's later choices are likelier; all that were made are paid for."""
    answer = client.completions.create(model="words", prompt=TEXT, n=1, best_of=3)

    assert [choice.index for choice in answer.choices] == [0]
    assert answer.usage is not None
    assert answer.usage.completion_tokens in (5, 15)


def test_parameters_reach_the_model_by_their_names(client: OpenAI) -> None:
    """OpenAI's own and those that vLLM added; what nobody knows is ignored."""
    found = shown(
        client, temperature=0.5, seed=7, stop=["zz"], logit_bias={"5": 1}, user="someone",
        extra_body={"top_k": 3, "min_p": 0.1, "priority": 2, "cache_salt": "s", "who_knows": 1,
                    "guided_regex": "a+"},
    )  # fmt: skip

    assert found["sampling"] == {
        "n": 1, "temperature": 0.5, "seed": 7, "stop": ["zz"], "logit_bias": {"5": 1},
        "max_tokens": 999, "top_k": 3, "min_p": 0.1, "priority": 2, "cache_salt": "s",
        "regex": "a+",
    }  # fmt: skip
    assert found["stream"] is False


def test_an_adapter_is_named_behind_the_model(web: httpx.Client) -> None:
    """And the answer bears the name that was asked for."""
    body = {"model": "words:poet", "prompt": "!show", "max_tokens": 99}

    answer = web.post("/v1/completions", json=body).json()

    assert answer["model"] == "words:poet"
    assert '"adapter_id": "poet"' in answer["choices"][0]["text"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", []), ("prompt", {}), ("prompt", None), ("prompt", [1, "a"]), ("prompt", [[-1]]),
        ("prompt", ["a"] * 300), ("n", 0), ("n", 1_000_000), ("n", "2"), ("best_of", 1_000_000),
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**31), ("max_tokens", "all"),
        ("logprobs", True), ("suffix", "end"), ("stream", 1),
        ("stream_options", {"include_usage": True}),
        ("use_beam_search", True), ("structured_outputs", {"json": {}, "regex": "a"}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(client: OpenAI, field: str, value: Any) -> None:
    """400, with the field as `param`."""
    with pytest.raises(BadRequestError) as caught:
        client.completions.create(
            model="words", prompt="a", extra_body={"prompt": "a", field: value}
        )

    assert caught.value.param is not None
    assert caught.value.param.startswith(field)
    assert caught.value.type == "invalid_request_error"


def test_kserve_has_it_at_a_place_of_its_own(web: httpx.Client) -> None:
    """The same answers below /openai."""
    answer = web.post("/openai/v1/completions", json={"model": "words", "prompt": "a"})

    assert answer.json()["choices"][0]["text"] == "a"
