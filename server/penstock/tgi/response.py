"""Generated texts as TGI tells them: whole, or an event for each token."""

from collections.abc import Iterable
from typing import Any

from penstock.generative.answers import Answer, Choice, Place, Token, likeliest_first
from penstock.generative.tokens import (
    ends_with_special,
    finish_reason,
    token_document,
    token_documents,
)
from penstock.tgi.request import GenerateRequest


def whole(request: GenerateRequest, answer: Answer) -> dict[str, Any]:
    """The whole answer; the best, where there are several."""
    best, *others = likeliest_first(answer.choices)
    told: dict[str, Any] = {"generated_text": _full(request, best.text)}
    if request.details:
        told["details"] = _details(request, answer, best)
        if others:
            told["details"]["best_of_sequences"] = [
                {"generated_text": _full(request, c.text), **_details(request, answer, c)}
                for c in others
            ]
    return told


class TokenEvents:
    """The events of one stream."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._text = ""
        self._count = 0

    def documents(self, answer: Answer) -> list[dict[str, Any]]:
        """An event for each token of a response; the last of all has the whole text."""
        found = []
        for choice in answer.choices:
            self._text += choice.text
            for place, text in zip(choice.places, pieces(choice), strict=True):
                found.append(self._token(place, token_document(place.token, text)))
            if choice.text and not choice.places:
                # A model that does not tell its tokens.
                found.append(self._token(None, token_document(Token(0, choice.text))))
            if choice.finish_reason:
                self._end(found, choice, answer)
        return found

    def _token(self, place: Place | None, token: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        told = {"index": self._count, "token": token, "generated_text": None, "details": None}
        if self._request.top:
            told["top_tokens"] = _tops(place, self._request.top) if place else []
        return told

    def _end(self, found: list[dict[str, Any]], choice: Choice, answer: Answer) -> None:
        if not found:
            # The last tokens came before anyone knew that they were the last.
            found.append(self._token(None, token_document(Token(0, "", special=True))))
        last = found[-1]
        if ends_with_special(choice):
            last["token"]["special"] = True
        last["generated_text"] = _full(self._request, self._text)
        last["details"] = {
            "finish_reason": finish_reason(choice),
            "generated_tokens": choice.output_tokens,
            "input_length": answer.prompt_tokens,
            "seed": self._request.seed,
        }


def pieces(choice: Choice) -> list[str]:
    """The text of a choice, cut into that of its tokens. Where tokens do not add up to it (half of
    a character, what may yet become a stop string) the last has it all.
    """
    texts = [place.token.text for place in choice.places]
    own = texts[:-1] if ends_with_special(choice) else texts
    if not texts or "".join(own) == choice.text:
        return texts
    return [*([""] * (len(texts) - 1)), choice.text]


def _details(request: GenerateRequest, answer: Answer, choice: Choice) -> dict[str, Any]:
    told: dict[str, Any] = {
        "finish_reason": finish_reason(choice),
        "generated_tokens": choice.output_tokens,
        "seed": request.seed,
        "prefill": _prefill(answer.prompt) if request.prefill else [],
        "tokens": token_documents(choice),
    }
    if request.top:
        told["top_tokens"] = [_tops(place, request.top) for place in choice.places]
    return told


def _prefill(prompt: Iterable[Place | None]) -> list[dict[str, Any]]:
    """The tokens of the prompt, of which the first may be unknown."""
    tokens = [place.token for place in prompt if place is not None]
    return [{"id": t.id, "text": t.text, "logprob": t.logprob} for t in tokens]


def _tops(place: Place, count: int) -> list[dict[str, Any]]:
    return [token_document(token) for token in place.likeliest(count)]


def _full(request: GenerateRequest, text: str) -> str:
    return request.question.prompt.shown + text if request.full_text else text
