"""The tools that a chat request offers, and how free the model is to call them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.generative.fields import Fields

MOST_TOOLS = 512


@dataclass(frozen=True, slots=True)
class Tools:
    """`offered` is what the template is told, as it came. The model may call any of them, or has to
    if `required`; with `only` its whole answer are the arguments of that one.
    """

    offered: tuple[Mapping[str, Any], ...] = ()
    names: frozenset[str] = frozenset()
    required: bool = False
    only: str = ""
    parallel: bool = True

    def form(self) -> dict[str, Any]:
        """The form of an answer that has to be a call, as a sampling parameter; {} for none."""
        if self.only:
            tool = next(t for t in self.offered if t["function"]["name"] == self.only)
            return {"json": _parameters(tool)}
        return {"json": self._calls()} if self.required else {}

    def _calls(self) -> dict[str, Any]:
        """A schema of an array of calls."""
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "enum": [tool["function"]["name"]]},
                    "parameters": _parameters(tool),
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for tool in self.offered
        ]
        most = {} if self.parallel else {"maxItems": 1}
        return {"type": "array", "minItems": 1, "items": {"anyOf": calls}, **most}


def read_tools(fields: Fields) -> Tools:
    """The tools of a request; with `tool_choice` none it is as if there were none."""
    found = fields.objects("tools")
    if len(found) > MOST_TOOLS:
        fields.refuse("tools", f"has {len(found)} entries, expected at most {MOST_TOOLS}")
    offered = tuple(_checked(tool) for tool in found)
    names = frozenset(str(tool["function"]["name"]) for tool in offered)
    parallel = fields.flag("parallel_tool_calls", default=True)
    choice = fields.get("tool_choice")
    if isinstance(choice, dict):
        name = fields.within("tool_choice").within("function").text("name")
        if name not in names:
            fields.refuse("tool_choice", f"names {name[:64]!r}, which is none of the tools")
        return Tools(offered, names, only=name, parallel=parallel)
    if choice not in (None, "none", "auto", "required"):
        fields.refuse("tool_choice", "is not one of none, auto, required, or an object")
    if choice == "required" and not offered:
        fields.refuse("tool_choice", "is 'required', but there are no 'tools'")
    if choice == "none":
        return Tools()
    return Tools(offered, names, choice == "required", parallel=parallel)


def _checked(tool: Fields) -> Mapping[str, Any]:
    kind = tool.text("type", "function")
    if kind != "function":
        tool.refuse("type", f"is {kind[:64]!r}, expected function")
    function = tool.within("function")
    if not function.text("name"):
        function.refuse("name", "is not given, expected the name of the function")
    function.within("parameters")
    return tool.document


def _parameters(tool: Mapping[str, Any]) -> Any:
    """The schema of a tool's arguments; any object, if it has none."""
    return tool["function"].get("parameters") or {"type": "object"}
