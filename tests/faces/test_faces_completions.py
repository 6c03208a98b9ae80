"""Completions of a real model, as OpenAI's client gets them."""

import asyncio
from typing import Any

import pytest
from openai import APITimeoutError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from tests.e2e.language_models import PROMPT, is_idle, metrics, wait_until
from tests.e2e.running import Running
from tests.faces.serving_languages import PRICE


def complete(client: OpenAI, **asked: Any) -> Any:
    """The answer to a request for completions, greedy and short if nothing is said."""
    given = {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **asked}
    return client.completions.create(**given)


def text(answer: Any) -> str:
    """The text of the first choice."""
    found: str = answer.choices[0].text
    return found


def ids_of(web: Any, prompt: str) -> list[int]:
    """The tokens of a prompt behind its first, as TGI's interface tells them."""
    asked = {"max_new_tokens": 1, "details": True, "decoder_input_details": True}
    said = web.post("/generate", json={"inputs": prompt, "parameters": asked}).json()
    return [token["id"] for token in said["details"]["prefill"]]


def test_a_prompt_goes_on_the_same_as_text_and_as_tokens(client: OpenAI, web: Any) -> None:
    """One, or several; each choice of each has a number of its own."""
    ids = ids_of(web, "x" + PROMPT)

    alone = complete(client)
    both = complete(client, prompt=[PROMPT, "import "], n=2)
    tokens = complete(client, prompt=[ids, ids])

    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == text(alone)
    assert both.choices[2].text == text(complete(client, prompt="import "))
    assert text(tokens) == tokens.choices[1].text == text(complete(client, prompt=ids))
    assert alone.choices[0].finish_reason == "length"
    assert (alone.usage.completion_tokens, both.usage.completion_tokens) == (8, 32)
    assert both.usage.prompt_tokens > alone.usage.prompt_tokens


def test_pieces_add_up_to_the_whole_and_end_with_what_they_took(client: OpenAI) -> None:
    """The usage is that of the whole answer."""
    whole = complete(client, temperature=0.9, seed=5, n=2)

    chunks = list(
        complete(
            client, temperature=0.9, seed=5, n=2, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip

    for choice in whole.choices:
        own = [c for chunk in chunks[:-1] for c in chunk.choices if c.index == choice.index]
        assert "".join(piece.text for piece in own) == choice.text
        assert [piece.finish_reason for piece in own][-2:] == [None, "length"]
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 16
    assert len(chunks) > 8


def test_probabilities_are_told_of_the_prompt_and_of_what_follows(client: OpenAI) -> None:
    """With echo and no new tokens they are those of the prompt alone."""
    answer = complete(client, logprobs=2, max_tokens=3)
    echoed = complete(client, logprobs=2, max_tokens=3, echo=True)
    prompt = complete(client, logprobs=1, max_tokens=0, echo=True)

    told, all_told, bare = (each.choices[0].logprobs for each in (answer, echoed, prompt))
    assert "".join(told.tokens) == text(answer)
    assert all(top[token] == max(top.values()) for top, token in zip(
        told.top_logprobs, told.tokens, strict=True))  # fmt: skip
    assert "".join(all_told.tokens) == text(echoed) == PROMPT + text(answer)
    assert all_told.text_offset[-3] == len(PROMPT)
    assert all_told.token_logprobs[-3:] == pytest.approx(told.token_logprobs, abs=1e-4)
    assert "".join(bare.tokens) == text(prompt) == PROMPT
    assert bare.token_logprobs[0] is None
    assert bare.token_logprobs[1:] == pytest.approx(all_told.token_logprobs[1:-3], abs=1e-4)
    assert prompt.usage.completion_tokens == 0


def test_a_text_ends_before_its_stop_string(client: OpenAI) -> None:
    """In pieces too."""
    whole = text(complete(client, max_tokens=30))
    stop = whole[9:12]

    answer = complete(client, max_tokens=30, stop=[stop])
    pieces = complete(client, max_tokens=30, stop=[stop], stream=True)

    assert text(answer) == whole[: whole.index(stop)]
    assert "".join(text(piece) for piece in pieces) == text(answer)
    assert (answer.choices[0].finish_reason, answer.choices[0].stop_reason) == ("stop", stop)


def test_the_best_of_several_are_the_likeliest_of_them(client: OpenAI) -> None:
    """By the mean of their tokens' probabilities."""
    given: dict[str, Any] = {"temperature": 1.0, "seed": 2, "logprobs": 0, "max_tokens": 6}
    every = complete(client, n=5, **given)
    best = complete(client, n=1, best_of=5, **given)

    def mean(choice: Any) -> float:
        found: list[float] = choice.logprobs.token_logprobs
        return sum(found) / len(found)

    assert text(best) == max(every.choices, key=mean).text
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_an_answer_says_how_long_it_took_where_that_is_asked(client: OpenAI) -> None:
    """A stream with its last chunk, with its usage or without."""
    asked: dict[str, Any] = {"extra_body": {"include_metrics": True}}

    whole = complete(client, **asked)
    last = list(complete(client, stream=True, **asked))[-1]
    used = list(complete(client, stream=True, stream_options={"include_usage": True}, **asked))[-1]

    for told in (whole.metrics, last.metrics, used.metrics):
        assert 0 <= told["queue_time_ms"] <= told["time_to_first_token_ms"]
        assert told["mean_itl_ms"] > 0
        assert told["cost"] == pytest.approx(told["compute_time_ms"] * PRICE / 3600e3, rel=0.01)
    assert not last.choices
    assert (last.usage, used.usage.completion_tokens) == (None, 8)
    assert not hasattr(complete(client), "metrics")


@pytest.mark.parametrize(
    ("wrong", "words", "code"),
    [
        ({"prompt": "x " * 2000}, "expected at most 511", "context_length_exceeded"),
        ({"max_tokens": 5000}, "more than the 512 tokens", "context_length_exceeded"),
        ({"prompt": [100_000]}, "token 100000", None),
        ({"temperature": -1}, "'temperature' is -1", None),
        ({"max_tokens": 0}, "'max_tokens' is 0", None),
        ({"stream": True, "top_p": 3}, "'top_p' is 3", None),
        ({"extra_body": {"guided_regex": "(("}}, "regex", None),
        ({"extra_body": {"priority": 3}}, "metadata that the server trusts", None),
    ],
)
def test_what_makes_no_sense_is_refused_in_openais_form(
    client: OpenAI, running: Running, wrong: dict[str, Any], words: str, code: str | None
) -> None:
    """Before the first chunk, if it is a stream; nothing is left of it."""
    with pytest.raises(BadRequestError) as refused:
        complete(client, **wrong)

    assert words in refused.value.message
    assert refused.value.type == "invalid_request_error"
    assert code is None or refused.value.code == code
    wait_until(lambda: is_idle(running))


@pytest.mark.parametrize("name", ["none", "tiny:none", "none:loud"])
def test_a_model_that_is_not_there_is_not_found(client: OpenAI, name: str) -> None:
    """Or an adapter; with the code that clients know."""
    with pytest.raises(NotFoundError) as refused:
        complete(client, model=name)

    assert refused.value.code == "model_not_found"


def test_thirty_two_streams_at_once_are_what_they_are_whole(
    aclient: AsyncOpenAI, running: Running
) -> None:
    """With the same seed, whatever else is in the batch."""

    async def pieces(seed: int) -> str:
        stream = await aclient.completions.create(**asked(seed), stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def whole(seed: int) -> str:
        return text(await aclient.completions.create(**asked(seed)))

    def asked(seed: int) -> dict[str, Any]:
        return {"model": "tiny", "prompt": f"class A{seed}", "seed": seed, "max_tokens": 16}

    async def both() -> tuple[list[str], list[str]]:
        async with aclient:
            streams = await asyncio.gather(*map(pieces, range(32)))
            return streams, await asyncio.gather(*map(whole, range(32)))

    streams, wholes = asyncio.run(both())

    assert streams == wholes
    assert len(set(streams)) > 24
    wait_until(lambda: is_idle(running))


def test_a_client_that_does_not_wait_for_the_whole_frees_the_engine(
    client: OpenAI, running: Running
) -> None:
    """As it is with a stream."""
    before = metrics(running)["generation_tokens_total"]
    with pytest.raises(APITimeoutError):
        complete(client, max_tokens=500, timeout=0.1, extra_body={"ignore_eos": True})

    wait_until(lambda: is_idle(running))

    assert metrics(running)["generation_tokens_total"] - before < 500


def test_a_client_that_leaves_in_the_middle_frees_the_engine(
    client: OpenAI, running: Running
) -> None:
    """Of a stream; long before its last token."""
    before = metrics(running)["generation_tokens_total"]
    for _ in range(4):
        stream = complete(client, max_tokens=500, stream=True, extra_body={"ignore_eos": True})
        next(stream)
        stream.close()

    wait_until(lambda: metrics(running)["num_requests_running"] == 0)

    assert is_idle(running)
    assert metrics(running)["generation_tokens_total"] - before < 4 * 500
