"""Chat completions as OpenAI tells them: whole, or in pieces."""

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.generative.answers import Answer, Choice, Place, Token
from penstock.openai.chat_request import ChatRequest
from penstock.openai.identity import new_id
from penstock.openai.tool_calls import Arguments, CallFinder, CallPiece, Found, PlainText

KIND, CHUNK = "chat.completion", "chat.completion.chunk"
ASSISTANT = "assistant"


class ChatWriter:
    """Tells the choices of one request, in the order in which they come."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._readers: dict[int, PlainText | Arguments | CallFinder] = {}

    def whole(self, answer: Answer) -> list[dict[str, Any]]:
        """The choices of a whole answer."""
        return [self._whole(c) for c in sorted(answer.choices, key=lambda c: c.index)]

    def piece(self, answer: Answer) -> list[dict[str, Any]]:
        """What is new of each choice; nothing where there is nothing to tell."""
        found = []
        for choice in answer.choices:
            first = choice.index not in self._readers
            said = self._found(choice)
            if first or said.content or said.calls or choice.finish_reason or self._tells(choice):
                found.append(self._piece(choice, said, first=first))
        return found

    # -- one choice --------------------------------------------------------------------------------

    def _whole(self, choice: Choice) -> dict[str, Any]:
        found = self._found(choice)
        message: dict[str, Any] = {"role": ASSISTANT, "content": found.content, "refusal": None}
        if found.calls:
            message["content"] = found.content or None
            message["tool_calls"] = [_call(call) for call in _joined(found.calls)]
        return self._told(choice, "message", message)

    def _piece(self, choice: Choice, found: Found, *, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": ASSISTANT, "content": ""} if first else {}
        if found.content or (choice.places and not choice.finish_reason and not found.calls):
            delta["content"] = found.content
        if found.calls:
            delta["tool_calls"] = [{"index": c.number, **_call(c)} for c in found.calls]
        return self._told(choice, "delta", delta)

    def _told(self, choice: Choice, name: str, value: dict[str, Any]) -> dict[str, Any]:
        told: dict[str, Any] = {
            "index": choice.index,
            name: value,
            "logprobs": self._logprobs(choice.places),
            "finish_reason": self._reason(choice),
        }
        return told | ({"stop_reason": choice.stop_reason or None} if choice.finish_reason else {})

    def _found(self, choice: Choice) -> Found:
        reader = self._readers.get(choice.index)
        if reader is None:
            reader = self._readers[choice.index] = self._reader()
        found = reader.push(choice.text)
        if not choice.finish_reason:
            return found
        rest = reader.finish()
        return Found(found.content + rest.content, [*found.calls, *rest.calls])

    def _reader(self) -> PlainText | Arguments | CallFinder:
        tools = self._request.tools
        if tools.only:
            return Arguments(tools.only)
        return CallFinder(tools.names, parallel=tools.parallel) if tools.names else PlainText()

    def _reason(self, choice: Choice) -> str | None:
        if choice.finish_reason == "stop" and self._readers[choice.index].called:
            return "tool_calls"
        return choice.finish_reason or None

    def _tells(self, choice: Choice) -> bool:
        return self._request.top is not None and bool(choice.places)

    def _logprobs(self, places: Sequence[Place]) -> dict[str, Any] | None:
        top = self._request.top
        if top is None:
            return None
        said = [_scored(p.token) | {"top_logprobs": _all(p.likeliest(top))} for p in places]
        return {"content": said, "refusal": None}


def _joined(pieces: Iterable[CallPiece]) -> list[CallPiece]:
    """The calls that these are pieces of."""
    calls: dict[int, CallPiece] = {}
    for piece in pieces:
        before = calls.get(piece.number, CallPiece(piece.number, "", ""))
        name, arguments = before.name or piece.name, before.arguments + piece.arguments
        calls[piece.number] = CallPiece(piece.number, name, arguments)
    return list(calls.values())


def _call(call: CallPiece) -> dict[str, Any]:
    """A call, or more of the arguments of one whose name was told before."""
    if not call.name:
        return {"function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": new_id("call_"), "type": "function", "function": function}


def _all(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    return [_scored(token) for token in tokens]


def _scored(token: Token) -> dict[str, Any]:
    data = list(token.text.encode(errors="replace"))
    return {"token": token.text, "logprob": token.logprob, "bytes": data}
