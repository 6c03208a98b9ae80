"""The messages of a conversation, in the form that templates of models know."""

from typing import Any

from penstock.generative.fields import Fields
from penstock.rest.documents import read_document

MOST_MESSAGES = 4096
# OpenAI's newer word for the same role, which templates do not know.
_ROLES = {"developer": "system"}


def read_messages(fields: Fields) -> list[dict[str, Any]]:
    """The messages; InvalidArgument names the part that is wrong."""
    messages = fields.objects("messages")
    if not 1 <= len(messages) <= MOST_MESSAGES:
        fields.refuse("messages", f"has {len(messages)} entries, expected 1 to {MOST_MESSAGES}")
    return [_message(message) for message in messages]


def _message(message: Fields) -> dict[str, Any]:
    role = message.text("role")
    if not role:
        message.refuse("role", "is not given, expected system, user, assistant or tool")
    kept = {
        name: value
        for name, value in message.document.items()
        if value is not None and name not in ("role", "content", "tool_calls")
    }
    made = {"role": _ROLES.get(role, role), "content": _content(message), **kept}
    calls = [_call(call) for call in message.objects("tool_calls")]
    return made | ({"tool_calls": calls} if calls else {})


def _content(message: Fields) -> str:
    """The text; that of several parts in one, a line for each."""
    content = message.get("content")
    if not isinstance(content, list):
        return message.text("content")
    return "\n".join(_part(part) for part in message.objects("content"))


def _part(part: Fields) -> str:
    kind = part.text("type", "text")
    if kind not in ("text", "input_text", "refusal"):
        part.refuse("type", f"is {kind[:64]!r}, expected text: models here read nothing else")
    return part.text("refusal" if kind == "refusal" else "text")


def _call(call: Fields) -> dict[str, Any]:
    """A call that the model made before: templates want its arguments as an object."""
    function = call.within("function")
    arguments: Any = function.get("arguments")
    if isinstance(arguments, str):
        # What is within a text was not looked at when the request was read.
        text = function.text("arguments").strip()
        arguments = read_document(text.encode(), f"'{function.name('arguments')}'") if text else {}
    told = {"name": function.text("name"), "arguments": arguments or {}}
    return {**call.document, "type": "function", "function": told}
