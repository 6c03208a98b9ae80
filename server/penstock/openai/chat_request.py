"""A request for a chat completion, taken apart."""

from dataclasses import dataclass
from typing import Any

from penstock.generative.fields import Fields
from penstock.generative.question import (
    CHOICE_OUTPUTS,
    COUNT_OUTPUTS,
    LOGPROBS,
    PROMPT_LOGPROBS,
    Prompt,
    Question,
)
from penstock.openai.chat_messages import read_messages
from penstock.openai.completion_request import MOST_LOGPROBS, MOST_TOKENS, StreamWish, read_wish
from penstock.openai.sampling import STRUCTURED, check_offered, read_sampling
from penstock.openai.tools import Tools, read_tools

# What the template is told beside messages and tools.
_FOR_TEMPLATE = (
    "add_generation_prompt",
    "continue_final_message",
    "documents",
    "chat_template_kwargs",
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked; `top` None: no probabilities are wanted, else so many of the likeliest."""

    question: Question
    wish: StreamWish
    tools: Tools
    top: int | None = None


def read_chat(fields: Fields, adapter: str = "") -> ChatRequest:
    """What a request asks; InvalidArgument names the field that is wrong."""
    check_offered(fields)
    wish, tools = read_wish(fields), read_tools(fields)
    sampling = read_sampling(fields, adapter)
    # As many as fit, unless something is said.
    sampling["max_tokens"] = fields.whole(
        "max_completion_tokens", 1, MOST_TOKENS, fields.whole("max_tokens", 1, MOST_TOKENS)
    )
    form = tools.form()
    if form and any(name in sampling for name in STRUCTURED):
        fields.refuse("tool_choice", "asks for a form of the answer, as another field does")
    sampling |= form
    top = _top(fields)
    if top is not None:
        sampling["logprobs"] = top
    more = [name for name in (LOGPROBS, PROMPT_LOGPROBS) if name in sampling]
    outputs = (*CHOICE_OUTPUTS, *COUNT_OUTPUTS, *more, *wish.outputs)
    prompt = Prompt.messages(_conversation(fields, tools))
    return ChatRequest(Question(prompt, sampling, wish.stream, outputs), wish, tools, top)


def _top(fields: Fields) -> int | None:
    wanted = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, MOST_LOGPROBS)
    if top and not wanted:
        fields.refuse("top_logprobs", "is given, but 'logprobs' is not true")
    return (top or 0) if wanted else None


def read_conversation(fields: Fields) -> dict[str, Any]:
    """What a model is told of a conversation, and nothing of how it is to go on."""
    check_offered(fields)
    return _conversation(fields, read_tools(fields))


def _conversation(fields: Fields, tools: Tools) -> dict[str, Any]:
    told: dict[str, Any] = {"messages": read_messages(fields)}
    if tools.offered:
        told["tools"] = list(tools.offered)
    return told | {n: fields.get(n) for n in _FOR_TEMPLATE if fields.get(n) is not None}
