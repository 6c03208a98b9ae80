"""From the messages of a chat to the tokens of a prompt, by the model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.chat_messages import Chat, read_chat
from penstock_runtime.llm.chat_template import compile_template


class ChatTokenizer(Protocol):
    """What a chat needs of a tokenizer."""

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """Its templates by name; "default" is the usual one, "tool_use" that for tools."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Texts of special tokens by names as "bos_token"."""

    def encode(self, text: str, special: bool = True, limit: int | None = None) -> list[int]:
        """The tokens of a text, refused where they are surely more than the limit."""


def render_chat(
    tokenizer: ChatTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    template: str = "",
    limit: int | None = None,
) -> list[int]:
    """The tokens of a chat; see `encode_chat`. The generation prompt is added unless the final
    message is to be continued.
    """
    document = {
        "messages": messages,
        "tools": tools,
        "documents": documents,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        "chat_template_kwargs": chat_template_kwargs,
    }
    return encode_chat(tokenizer, read_chat(document), template, limit)


def encode_chat(
    tokenizer: ChatTokenizer, chat: Chat, template: str = "", limit: int | None = None
) -> list[int]:
    """The tokens of a chat by the tokenizer's template, or by the one given, which must be the
    operator's. Templates write a begin-of-sequence themselves, so none is added.
    """
    return tokenizer.encode(chat_text(tokenizer, chat, template), special=False, limit=limit)


def chat_text(tokenizer: ChatTokenizer, chat: Chat, template: str = "") -> str:
    """The text of a chat; InvalidArgument for a model without a template."""
    text = template or _choose(tokenizer.chat_templates, chat)
    return compile_template(text).render(chat, tokenizer.special_tokens)


def _choose(templates: Mapping[str, str], chat: Chat) -> str:
    name = "tool_use" if chat.tools and "tool_use" in templates else "default"
    if name in templates:
        return templates[name]
    if templates:
        raise InvalidArgument(
            f"chat: the model has chat templates {sorted(templates)} and none named 'default'"
        )
    raise InvalidArgument(
        "chat: the model has no chat template; send text_input, or set chat_template in its"
        " parameters"
    )
