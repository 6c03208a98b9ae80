"""Models, embeddings, scores: what is there, and what is made of texts."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI


def test_language_models_are_listed_and_no_others(client: OpenAI) -> None:
    """Each by its name; of the others nothing is told here."""
    assert [model.id for model in client.models.list()] == ["ranks", "vectors", "words"]
    assert client.models.retrieve("words").owned_by == "penstock"
    with pytest.raises(NotFoundError):
        client.models.retrieve("simple")


def test_the_only_model_for_a_task_need_not_be_named(web: httpx.Client) -> None:
    """One that is named must be for the task, and be there."""
    unnamed = web.post("/v1/completions", json={"prompt": "a"})
    unknown = web.post("/v1/completions", json={"model": "nowhere", "prompt": "a"})
    wrong = web.post("/v1/completions", json={"model": "vectors", "prompt": "a"})

    assert unnamed.json()["model"] == "words"
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "model")
    assert "expected one of: words" in wrong.json()["error"]["message"]


def test_texts_become_vectors(client: OpenAI) -> None:
    """In their order, as numbers or (which the client asks for) as base64, with what it took."""
    texts = ["abc", "d e", "f" * 20] * 5
    made = client.embeddings.create(model="vectors", input=texts)
    plain = client.embeddings.create(model="vectors", input="abc", encoding_format="float")

    assert [vector.embedding[0] for vector in made.data] == [3, 3, 20] * 5
    assert plain.data[0].embedding == [3, 4, 0]
    assert (made.usage.prompt_tokens, made.object) == (20, "list")


def test_base64_is_little_endian_float32(web: httpx.Client) -> None:
    """As OpenAI's clients read it."""
    body = {"model": "vectors", "input": "abc", "encoding_format": "base64"}

    made = web.post("/openai/v1/embeddings", json=body).json()["data"][0]["embedding"]

    assert np.frombuffer(base64.b64decode(made), "<f4").tolist() == [3, 4, 0]


def test_fewer_dimensions_have_length_one_again(client: OpenAI) -> None:
    """More than there are is refused."""
    made = client.embeddings.create(model="vectors", input="abc", dimensions=2)

    assert made.data[0].embedding == pytest.approx([0.6, 0.8])
    with pytest.raises(BadRequestError, match="expected at most 3"):
        client.embeddings.create(model="vectors", input="abc", dimensions=4)


@pytest.mark.parametrize(
    "more",
    [
        {"input": []},
        {"input": [1, 2]},
        {"input": None},
        {"encoding_format": "int8"},
        {"dimensions": 0},
        {"model": "words"},
    ],
)
def test_what_cannot_be_embedded_is_refused(web: httpx.Client, more: dict[str, Any]) -> None:
    """Token ids too, of a model that takes texts only."""
    body = {"model": "vectors", "input": "a", **more}

    assert web.post("/v1/embeddings", json=body).status_code == 400


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_the_best_document_comes_first(web: httpx.Client, path: str) -> None:
    """With its number among those that were sent."""
    body = {"model": "ranks", "query": "a", "documents": ["b", "aaa", "a"]}

    found = web.post(path, json=body).json()["results"]
    best = web.post(path, json={**body, "top_n": 1, "return_documents": False}).json()["results"]

    assert [(r["index"], r["relevance_score"]) for r in found] == [(1, 3), (2, 1), (0, 0)]
    assert found[0]["document"] == {"text": "aaa"}
    assert best == [{"index": 1, "relevance_score": 3.0}]


def test_documents_may_be_objects(web: httpx.Client) -> None:
    """As Jina has them."""
    body = {"query": "a", "documents": [{"text": "b"}, {"text": "a"}]}

    assert web.post("/v1/rerank", json=body).json()["results"][0]["index"] == 1
    wrongs: list[dict[str, Any]] = [{"documents": []}, {"documents": ["a", {}]}, {"query": None}]
    for wrong in wrongs:
        assert web.post("/v1/rerank", json={**body, **wrong}).status_code == 400


def test_pairs_are_scored_in_their_order(web: httpx.Client) -> None:
    """One against each, or each against its own."""
    one = web.post("/v1/score", json={"text_1": "a", "text_2": ["b", "aaa"]}).json()
    each = web.post("/score", json={"text_1": ["a", "b"], "text_2": ["b", "bb"]}).json()
    wrong = web.post("/score", json={"text_1": ["a", "b"], "text_2": ["b"]})

    assert [entry["score"] for entry in one["data"]] == [0, 3]
    assert [entry["score"] for entry in each["data"]] == [0, 2]
    assert wrong.status_code == 400
