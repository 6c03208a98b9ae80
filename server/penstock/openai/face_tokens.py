"""POST /tokenize and /detokenize, as vLLM has them: prompts and conversations as tokens, and tokens
as text.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from penstock.generative.asker import Asker
from penstock.generative.catalogue import Catalogue
from penstock.generative.fields import Fields, token_ids
from penstock.generative.question import Prompt, Question, make_request
from penstock.openai.chat_request import read_conversation
from penstock.openai.errors import refused
from penstock.openai.identity import new_id
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported
from penstock_runtime.request import InferRequest, InferResponse

PROMPT_IDS, PROMPT_TEXT = "prompt_ids", "prompt_text"


class TokensFace:
    """Answers with tokens and with texts, without generating any."""

    def __init__(self, asker: Asker, catalogue: Catalogue) -> None:
        self._asker = asker
        self._catalogue = catalogue

    def routes(self) -> Sequence[Route]:
        """Their paths."""
        category = Category.INFERENCE
        return [
            Route("POST", "/tokenize", self.tokenize, category, refusal=refused),
            Route("POST", "/detokenize", self.detokenize, category, refusal=refused),
        ]

    async def tokenize(self, exchange: Exchange) -> Reply:
        """The tokens of a prompt, or of a conversation as the model's template has it."""
        config, made = await self._asker.read(exchange, partial(self._asked, exchange))
        responses = await self._asker.whole(exchange, [made])
        return await self._asker.reply(exchange, responses, partial(_tokens, config))

    async def detokenize(self, exchange: Exchange) -> Reply:
        """The text of tokens."""
        made = await self._asker.read(exchange, partial(self._given, exchange))
        responses = await self._asker.whole(exchange, [made])
        return await self._asker.reply(exchange, responses, _text)

    def _asked(self, exchange: Exchange, fields: Fields) -> tuple[ModelConfig, InferRequest]:
        for name, usual in (("return_token_strs", False), ("add_special_tokens", True)):
            # A template has its own special tokens, so that in chats this changes nothing.
            if fields.get("messages") is None and fields.flag(name, default=usual) is not usual:
                fields.refuse(name, f"is {fields.get(name)}, expected {usual}: no other is offered")
        if fields.get("messages") is not None:
            prompt = Prompt.messages(read_conversation(fields))
        elif fields.get("prompt") is None:
            fields.refuse("prompt", "is not given, expected a text, or 'messages'")
        else:
            prompt = Prompt.text(fields.text("prompt"))
        config = self._config(exchange, fields)
        return config, _request(config, prompt, PROMPT_IDS)

    def _given(self, exchange: Exchange, fields: Fields) -> InferRequest:
        tokens = token_ids(fields.items("tokens"), "tokens")
        if not tokens:
            fields.refuse("tokens", "is empty, expected token ids")
        return _request(self._config(exchange, fields), Prompt.tokens(tokens), PROMPT_TEXT)

    def _config(self, exchange: Exchange, fields: Fields) -> ModelConfig:
        model, _ = self._catalogue.choose_adapted(exchange.call.permit, fields.text("model"))
        return model.config


def _request(config: ModelConfig, prompt: Prompt, output: str) -> InferRequest:
    if config.find_output(output) is None:
        raise Unsupported(f"model '{config.name}' does not tell its tokens: it has no '{output}'")
    return make_request(Question(prompt, outputs=(output,)), config, new_id("tok-"))


def _tokens(config: ModelConfig, responses: Sequence[InferResponse]) -> dict[str, Any]:
    output = responses[0].output(PROMPT_IDS)
    ids = [] if output is None else output.numpy().reshape(-1).tolist()
    length = config.parameter("max_model_len")
    told = {"count": len(ids), "max_model_len": int(length) if length.isdecimal() else None}
    return told | {"tokens": ids, "token_strs": None}


def _text(responses: Sequence[InferResponse]) -> dict[str, Any]:
    output = responses[0].output(PROMPT_TEXT)
    texts = [] if output is None else output.numpy().reshape(-1).tolist()
    return {"prompt": b"".join(texts).decode(errors="replace")}
