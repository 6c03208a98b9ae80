"""A request for embeddings, taken apart: one request of the protocol for each text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.generative.fields import Fields
from penstock.generative.question import bare_request
from penstock.openai.completion_request import read_prompts
from penstock.openai.identity import new_id
from penstock.openai.usage import input_usage
from penstock.openai.vectors import shortened, written
from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import AnyArray
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferRequest, InferResponse

MOST_INPUTS, MOST_DIMENSIONS = 2048, 1 << 20


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What is asked; `dimensions` None means all that the model has."""

    id: str
    model: str
    made: tuple[InferRequest, ...]
    dimensions: int | None = None
    as_base64: bool = False

    def told(self, responses: Sequence[InferResponse]) -> dict[str, Any]:
        """The answer."""
        data = []
        for index, response in enumerate(responses):
            vector = shortened(_vector(response), self.dimensions)
            told = written(vector, as_base64=self.as_base64)
            data.append({"object": "embedding", "index": index, "embedding": told})
        head = {"id": self.id, "object": "list", "model": self.model}
        return head | {"data": data, "usage": input_usage(responses)}


def read_embedding(fields: Fields, config: ModelConfig) -> EmbeddingRequest:
    """What a request asks of a model; InvalidArgument names the field that is wrong."""
    form = fields.text("encoding_format", "float")
    if form not in ("float", "base64"):
        fields.refuse("encoding_format", f"is {form[:64]!r}, expected float or base64")
    dimensions = fields.whole("dimensions", 1, MOST_DIMENSIONS)
    identity, outputs = new_id("embd-"), ["embedding"]
    if config.find_output("num_input_tokens") is not None:
        outputs.append("num_input_tokens")
    made = tuple(
        bare_request(config, {p.name: p.values}, outputs, identity, required=p.name)
        for p in read_prompts(fields, "input", MOST_INPUTS)
    )
    name = fields.text("model") or config.name
    return EmbeddingRequest(identity, name, made, dimensions, form == "base64")


def _vector(response: InferResponse) -> AnyArray:
    output = response.output("embedding")
    if output is None:
        raise Internal(f"model '{response.model_name}' gave no embedding", scheduled=True)
    return output.numpy().reshape(-1).astype(np.float32, copy=False)
