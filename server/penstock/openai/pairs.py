"""Pairs of texts that a model scores, and what is told of the scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.generative.fields import Fields
from penstock.generative.question import bare_request
from penstock.openai.embedding_request import MOST_INPUTS
from penstock.openai.identity import Identity
from penstock.openai.usage import input_usage
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferRequest, InferResponse

_OUTPUTS = ("score", "num_input_tokens")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Documents for one query: `most` of the best are told, with their text if they are `shown`."""

    identity: Identity
    made: list[InferRequest]
    documents: list[str]
    most: int
    shown: bool

    def told(self, responses: Sequence[InferResponse]) -> dict[str, Any]:
        """The answer, the best first."""
        scores = [_score(response) for response in responses]
        best = sorted(range(len(scores)), key=lambda number: -scores[number])[: self.most]
        results: list[dict[str, Any]] = [
            {"index": number, "relevance_score": scores[number]} for number in best
        ]
        for result in results if self.shown else ():
            result["document"] = {"text": self.documents[result["index"]]}
        told = {"id": self.identity.id, "model": self.identity.model, "results": results}
        return told | {"usage": input_usage(responses)}


@dataclass(frozen=True, slots=True)
class Scoring:
    """Pairs, each with a score of its own."""

    identity: Identity
    made: list[InferRequest]

    def told(self, responses: Sequence[InferResponse]) -> dict[str, Any]:
        """The answer, in the order of the pairs."""
        data = [
            {"index": number, "object": "score", "score": _score(response)}
            for number, response in enumerate(responses)
        ]
        return self.identity.head("list") | {"data": data, "usage": input_usage(responses)}


def read_ranking(fields: Fields, config: ModelConfig, identity: Identity) -> Ranking:
    """What a request to rank asks; InvalidArgument names the field that is wrong."""
    query, documents = fields.text("query"), _documents(fields)
    if not query:
        fields.refuse("query", "is not given, expected a text")
    most = fields.whole("top_n", 0, MOST_INPUTS) or len(documents)
    made = _requests(config, identity, ((query, text) for text in documents))
    return Ranking(identity, made, documents, most, fields.flag("return_documents", default=True))


def read_scoring(fields: Fields, config: ModelConfig, identity: Identity) -> Scoring:
    """What a request for scores asks: one text against each of the others, or each its own."""
    first, second = fields.texts("text_1"), fields.texts("text_2")
    if len(first) not in (1, len(second)) or not 1 <= len(second) <= MOST_INPUTS:
        counts = f"has {len(first)} texts and 'text_2' {len(second)}"
        fields.refuse("text_1", f"{counts}, expected one or as many, and at most {MOST_INPUTS}")
    pairs = zip(first * (len(second) if len(first) == 1 else 1), second, strict=True)
    return Scoring(identity, _requests(config, identity, pairs))


def _documents(fields: Fields) -> list[str]:
    """The texts, each as it is or in an object."""
    items = fields.items("documents")
    if not 1 <= len(items) <= MOST_INPUTS:
        fields.refuse("documents", f"has {len(items)} entries, expected 1 to {MOST_INPUTS}")
    if any(isinstance(item, str) for item in items):
        return fields.texts("documents")
    return [item.text("text") for item in fields.objects("documents")]


def _requests(
    config: ModelConfig, identity: Identity, pairs: Iterable[tuple[str, str]]
) -> list[InferRequest]:
    outputs = [name for name in _OUTPUTS if config.find_output(name) is not None]
    return [
        bare_request(
            config, {"query": (q.encode(),), "document": (d.encode(),)}, outputs, identity.id
        )
        for q, d in pairs
    ]


def _score(response: InferResponse) -> float:
    output = response.output("score")
    if output is None:
        raise Internal(f"model '{response.model_name}' gave no score", scheduled=True)
    return float(output.numpy().reshape(-1)[0])
