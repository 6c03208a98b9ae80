"""Tokens and endings in the words that TGI made, and the protocol's text generation took over."""

from typing import Any

from penstock.generative.answers import Choice, Token

_REASONS = {"length": "length", "stop": "stop_sequence"}


def finish_reason(choice: Choice) -> str:
    """Why it ended; "" while it goes on."""
    if choice.at_end_of_sequence:
        return "eos_token"
    return _REASONS.get(choice.finish_reason, choice.finish_reason)


def token_document(token: Token, text: str | None = None) -> dict[str, Any]:
    """A token; `text` where that is not the token's own."""
    return {
        "id": token.id,
        "text": token.text if text is None else text,
        "logprob": token.logprob,
        "special": token.special,
    }


def token_documents(choice: Choice) -> list[dict[str, Any]]:
    """The tokens of a choice; the one that ends a sequence is special."""
    found = [token_document(place.token) for place in choice.places]
    if found and ends_with_special(choice):
        found[-1]["special"] = True
    return found


def ends_with_special(choice: Choice) -> bool:
    """Whether the last token is the one that ends a sequence, which is no part of the text."""
    if not (choice.at_end_of_sequence and choice.places):
        return False
    text = choice.places[-1].token.text
    return not text or not choice.text.endswith(text)
