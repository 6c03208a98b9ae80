"""POST /v1/embeddings: texts as vectors."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue, Task
from penstock.generative.fields import Fields
from penstock.generative.question import bare_request
from penstock.openai.completion_request import read_prompts
from penstock.openai.errors import refused
from penstock.openai.identity import new_id
from penstock.openai.paths import ROOTS
from penstock.openai.vectors import shortened, written
from penstock.rest.documents import write_document
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock.workshop import Workshop
from penstock_runtime.errors import Internal
from penstock_runtime.request import InferResponse

MOST_INPUTS, MOST_DIMENSIONS = 2048, 1 << 20
_COUNT = "num_input_tokens"
# Numbers that take about a millisecond to write.
_HEAVY_NUMBERS = 4096


class EmbeddingsFace:
    """Answers requests for embeddings. Each text is a request of its own, and the model's batcher
    puts those together that suit each other.
    """

    def __init__(self, asker: Asker, catalogue: Catalogue, shop: Workshop) -> None:
        self._asker = asker
        self._catalogue = catalogue
        self._shop = shop

    def routes(self) -> Sequence[Route]:
        """The paths of embeddings."""
        return [
            Route("POST", f"{root}/embeddings", self.embed, Category.INFERENCE, refusal=refused)
            for root in ROOTS
        ]

    async def embed(self, exchange: Exchange) -> Reply:
        """A vector for each text."""
        fields = Fields(await self._asker.document(exchange))
        asked = fields.text("model")
        model = self._catalogue.choose(exchange.call.permit, asked, Task.EMBED)
        form = fields.text("encoding_format", "float")
        if form not in ("float", "base64"):
            fields.refuse("encoding_format", f"is {form[:64]!r}, expected float or base64")
        dimensions = fields.whole("dimensions", 1, MOST_DIMENSIONS)
        config, identity = model.config, new_id("embd-")
        outputs = [name for name in ("embedding", _COUNT) if config.find_output(name) is not None]
        made = [
            bare_request(config, {p.name: p.values}, outputs, identity, required=p.name)
            for p in read_prompts(fields, "input", MOST_INPUTS)
        ]
        responses = await self._asker.whole(exchange, made)
        head = {"id": identity, "object": "list", "model": asked or config.name}
        usage = input_usage(responses)
        arguments = head, usage, responses, dimensions, form == "base64"
        if len(responses) * _size(responses[0]) > _HEAVY_NUMBERS:
            body = await self._shop.aside(_document, *arguments)
        else:
            body = _document(*arguments)
        return Reply((body,), headers=exchange.call.told)


def input_usage(responses: Iterable[InferResponse]) -> dict[str, int]:
    """The tokens that the model read, as far as it tells."""
    counts = (response.output(_COUNT) for response in responses)
    total = sum(int(count.numpy().sum()) for count in counts if count is not None)
    return {"prompt_tokens": total, "total_tokens": total}


def _document(
    head: dict[str, Any],
    usage: dict[str, int],
    responses: Sequence[InferResponse],
    dimensions: int | None,
    as_base64: bool,
) -> bytes:
    data = []
    for index, response in enumerate(responses):
        vector = shortened(_vector(response), dimensions)
        told = written(vector, as_base64=as_base64)
        data.append({"object": "embedding", "index": index, "embedding": told})
    return write_document(head | {"data": data, "usage": usage})


def _vector(response: InferResponse) -> Any:
    output = response.output("embedding")
    if output is None:
        raise Internal(f"model '{response.model_name}' gave no embedding", scheduled=True)
    return output.numpy().reshape(-1).astype(np.float32, copy=False)


def _size(response: InferResponse) -> int:
    output = response.output("embedding")
    return 0 if output is None else output.elements
