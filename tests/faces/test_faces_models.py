"""Which models a server lists, adapters among them, and those that make vectors and scores."""

import base64
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from tests.e2e.language_models import PROMPT, metrics
from tests.e2e.running import Running
from tests.faces.serving_languages import ADAPTERS, CHAT


def test_adapters_are_listed_as_models_behind_their_own(client: OpenAI) -> None:
    """With where they lie and whose they are, and each alone by its name."""
    listed: list[Any] = client.models.list().data
    one: Any = client.models.retrieve("loud")

    assert [model.id for model in listed] == ["embedder", "reranker", "tiny", *ADAPTERS]
    assert (one.root, one.parent) == ("adapters/loud", "tiny")
    assert listed[2].parent is None
    with pytest.raises(NotFoundError):
        client.models.retrieve("none")


def test_the_length_of_a_text_is_told(client: OpenAI, web: Any) -> None:
    """Though no configuration says it: the model's own files do."""
    one: Any = client.models.retrieve("tiny")

    assert one.max_model_len == 512
    assert web.get("/info").json()["max_total_tokens"] == 512


def test_an_adapter_answers_by_its_own_name_and_by_its_models(client: OpenAI) -> None:
    """Each in its own way."""

    def text(model: str, **more: Any) -> str:
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=12, temperature=0, **more
        )
        assert answer.model == model
        return str(answer.choices[0].text)

    texts = {name: text(name) for name in ("tiny", *ADAPTERS)}

    assert len(set(texts.values())) == 3
    for name in ADAPTERS:
        assert text(f"tiny:{name}") == texts[name]
        assert text("tiny", extra_body={"adapter_id": name}) == texts[name]


def test_embeddings_are_the_same_in_either_encoding(client: OpenAI) -> None:
    """In order, of length 1, and shorter where that is asked for."""
    texts = ["a b", "dead beef", "cafe"]

    plain = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="embedder", input=texts, encoding_format="base64")
    short = client.embeddings.create(model="embedder", input=texts[1], dimensions=8)

    vectors = np.array([each.embedding for each in plain.data], "<f4")
    read = [np.frombuffer(base64.b64decode(str(each.embedding)), "<f4") for each in packed.data]
    np.testing.assert_allclose(vectors, read, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cut = vectors[1, :8] / np.linalg.norm(vectors[1, :8])
    np.testing.assert_allclose(short.data[0].embedding, cut, atol=1e-5)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 6


def test_a_model_of_another_kind_is_refused_with_those_that_fit(client: OpenAI) -> None:
    """Whatever is asked of it."""
    with pytest.raises(BadRequestError, match="expected one of: embedder"):
        client.embeddings.create(model="tiny", input="a")
    with pytest.raises(BadRequestError, match="expected one of: tiny"):
        client.completions.create(model="embedder", prompt="a")


def test_documents_are_ranked_and_scored_alike(web: Any) -> None:
    """The best first, in the one; in their own order, in the other."""
    documents = ["a b", "c", "dead", "f" * 12]
    asked = {"model": "reranker", "query": "a", "documents": documents, "top_n": 3}

    ranked = web.post("/v1/rerank", json=asked).json()
    scored = web.post("/v1/score", json={"text_1": "a", "text_2": documents}).json()

    scores = [each["score"] for each in scored["data"]]
    best = sorted(range(4), key=lambda number: -scores[number])[:3]
    assert [each["index"] for each in ranked["results"]] == best
    assert [each["document"]["text"] for each in ranked["results"]] == [documents[i] for i in best]
    assert [each["relevance_score"] for each in ranked["results"]] == [scores[i] for i in best]
    assert ranked["usage"] == scored["usage"]


def test_prompts_and_conversations_are_told_as_tokens_and_back(
    client: OpenAI, web: Any, running: Running
) -> None:
    """As the model itself counts them, and without generating anything."""
    before = metrics(running)["generation_tokens_total"]
    said = web.post("/tokenize", json={"model": "tiny", "prompt": PROMPT}).json()
    talk = web.post("/tokenize", json={"messages": CHAT}).json()
    back = web.post("/detokenize", json={"model": "tiny", "tokens": said["tokens"]}).json()
    long = web.post("/tokenize", json={"prompt": "x " * 1000}).json()
    after = metrics(running)["generation_tokens_total"]

    used: Any = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1).usage
    chatted: Any = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=1).usage
    assert after == before
    assert back == {"prompt": PROMPT}
    assert said["count"] == len(said["tokens"]) == used.prompt_tokens
    assert talk["count"] == chatted.prompt_tokens > said["count"]
    assert (said["max_model_len"], long["count"]) == (512, 2000)


@pytest.mark.parametrize(
    ("path", "asked", "words"),
    [
        ("/tokenize", {}, "'prompt' is not given"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": False}, "'add_special_tokens'"),
        ("/tokenize", {"model": "embedder", "prompt": "a"}, "expected one of: tiny"),
        ("/detokenize", {"tokens": []}, "'tokens' is empty"),
        ("/detokenize", {"tokens": [100_000]}, "token 100000"),
        ("/detokenize", {"tokens": [-1]}, "token id -1"),
    ],
)
def test_what_has_no_tokens_is_refused(web: Any, path: str, asked: Any, words: str) -> None:
    """In OpenAI's form."""
    answer = web.post(path, json=asked)

    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
