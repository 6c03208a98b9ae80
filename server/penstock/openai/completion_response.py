"""Completions as OpenAI tells them: whole, or in pieces."""

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.generative.answers import Answer, Choice, Place, Token, likeliest_first
from penstock.openai.completion_request import CompletionRequest

KIND = "text_completion"


class CompletionWriter:
    """Tells the choices of one request, in the order in which they come."""

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._texts: dict[int, int] = {}
        """By the number of a choice: how many characters of it have been told."""

    def whole(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The choices of all prompts, the best where there are more than are wanted."""
        found = []
        for prompt, answer in enumerate(answers):
            for index, choice in enumerate(self._best(answer.choices)):
                found.append(self._choice(prompt, index, choice, answer))
        return found

    def _best(self, choices: Sequence[Choice]) -> Sequence[Choice]:
        n = self._request.n
        if len(choices) > n:
            return likeliest_first(choices)[:n]
        return sorted(choices, key=lambda choice: choice.index)

    def piece(self, prompt: int, answer: Answer) -> list[dict[str, Any]]:
        """What is new; nothing where there is nothing to tell."""
        return [
            self._choice(prompt, choice.index, choice, answer)
            for choice in answer.choices
            if choice.text or choice.finish_reason or self._tells(choice)
        ]

    def _tells(self, choice: Choice) -> bool:
        return self._request.logprobs is not None and bool(choice.places)

    def _choice(self, prompt: int, index: int, choice: Choice, answer: Answer) -> dict[str, Any]:
        number = prompt * self._request.n + index
        told = self._texts.get(number)
        text, places = self._text(prompt, choice, first=told is None), list[Place | None]()
        if told is None and self._request.echo:
            places += answer.prompt
        if not self._request.bare:
            places += choice.places
        self._texts[number] = (told or 0) + len(text)
        said: dict[str, Any] = {
            "index": number,
            "text": text,
            "logprobs": self._logprobs(places, told or 0, text),
            "finish_reason": choice.finish_reason or None,
            "stop_reason": choice.stop_reason or None,
        }
        if self._request.prompt_logprobs and told is None:
            said["prompt_logprobs"] = answer.prompt_document
        return said

    def _text(self, prompt: int, choice: Choice, *, first: bool) -> str:
        question = self._request.questions[prompt]
        before = question.prompt.shown if self._request.echo and first else ""
        if self._request.bare:
            # The model has put a prompt of token ids before what it made of it.
            made = "".join(place.token.text for place in choice.places)
            return before or choice.text.removesuffix(made)
        return before + choice.text

    def _logprobs(
        self, places: Sequence[Place | None], offset: int, text: str
    ) -> dict[str, Any] | None:
        if self._request.logprobs is None:
            return None
        texts = [place.token.text if place is not None else "" for place in places]
        if places and places[0] is None:
            # Nothing is before the first token of a prompt, so that nothing is known of it but
            # what the others leave of the text.
            texts[0] = text.removesuffix("".join(texts))
        return {
            "tokens": texts,
            "token_logprobs": [place.token.logprob if place else None for place in places],
            "top_logprobs": [_top(place) for place in places],
            "text_offset": list(_offsets(texts, offset)),
        }


def _top(place: Place | None) -> dict[str, float | None] | None:
    if place is None:
        return None
    tokens: tuple[Token, ...] = (*place.top, place.token)
    return {token.text: token.logprob for token in tokens}


def _offsets(texts: Iterable[str], start: int) -> Iterable[int]:
    for text in texts:
        yield start
        start += len(text)
