"""Compiles and renders chat templates as transformers does: Jinja in its immutable sandbox, with
the names that templates of models rely on.

A template is the model's and so trusted to be no attack; what requests put into it may still make
it run wild. So each rendering has a budget: of characters, and of things done.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.chat_messages import Chat

MAX_RENDERED = 16 << 20
MAX_STEPS = 4_000_000
MAX_TEMPLATE = 1 << 20
_LONGEST_RANGE = 100_000
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class _Budget:
    """What one rendering may still do."""

    __slots__ = ("characters", "steps")

    def __init__(self) -> None:
        self.characters, self.steps = MAX_RENDERED, MAX_STEPS

    def spend(self, characters: int, steps: int = 1) -> None:
        """Do so much; OverflowError where it is too much."""
        self.characters -= characters
        self.steps -= steps
        if self.characters < 0:
            raise OverflowError(f"it makes more than {MAX_RENDERED} characters")
        if self.steps < 0:
            raise OverflowError(f"it takes more than {MAX_STEPS} steps")


_budget: ContextVar[_Budget] = ContextVar("chat_template_budget")


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which counts what is called, multiplied and put out."""

    intercepted_binops = frozenset(("*", "**", "+"))

    def call(self, __context: Any, __obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the template's."""
        _spend(0)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """One of the operators that can make much of little."""
        many = _length(left) * right if operator == "*" and isinstance(right, int) else 0
        many = max(many, _length(right) * left if operator == "*" and isinstance(left, int) else 0)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            many = left.bit_length() * max(right, 0)
        if operator == "+" and _length(left) + _length(right) > MAX_RENDERED:
            raise OverflowError(f"it makes more than {MAX_RENDERED} characters")
        _spend(max(many, 0))
        return super().call_binop(context, operator, left, right)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _spend(characters: int, steps: int = 1) -> None:
    budget = _budget.get(None)
    if budget is not None:
        budget.spend(characters, steps)


def _put_out(value: Any) -> Any:
    _spend(len(value) if isinstance(value, str) else 0)
    return value


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}`, by which a template marks what the model has said: put out as it is."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        """The nodes between the marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_generation")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _generation(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, which models have not seen.
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    _spend(len(text))
    return text


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _range(*args: int) -> Iterable[int]:
    numbers = range(*args)
    if len(numbers) > _LONGEST_RANGE:
        raise OverflowError(f"a range of {len(numbers)} is over {_LONGEST_RANGE}")
    _spend(0, len(numbers))
    return numbers


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
        finalize=_put_out,
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, range=_range
    )
    return environment


class ChatTemplate:
    """A compiled template."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEMPLATE:
            raise InvalidArgument(
                f"the chat template has {len(text)} characters, expected at most {MAX_TEMPLATE}"
            )
        try:
            environment = _environment()
            self._template = environment.from_string(text)
            self._reads_parts = _loops_over_content(environment.parse(text))
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidArgument(f"the chat template is broken: {_line(error)}") from error

    def render(self, chat: Chat, special_tokens: Mapping[str, str]) -> str:
        """The text of a chat; InvalidArgument says what the template, or its budget, is against."""
        messages = [self._formed(message) for message in chat.messages]
        final = _tag_final(messages) if chat.continue_final_message else None
        values = {
            **special_tokens,
            **chat.kwargs,
            "messages": messages,
            "tools": None if chat.tools is None else list(chat.tools),
            "documents": None if chat.documents is None else list(chat.documents),
            "add_generation_prompt": chat.add_generation_prompt,
        }
        text = self._render(values)
        return text if final is None else _cut_at_tag(text, final)

    def _formed(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message with its parts joined, for a template that knows content as one string only."""
        content = message.get("content")
        if self._reads_parts or not isinstance(content, list):
            return dict(message)
        return {**message, "content": "\n".join(part["text"] for part in content)}

    def _render(self, values: Mapping[str, Any]) -> str:
        budget = _Budget()
        token = _budget.set(budget)
        parts: list[str] = []
        left = MAX_RENDERED
        try:
            for part in self._template.generate(values):
                left -= len(part)
                if left < 0:
                    raise OverflowError(f"it makes more than {MAX_RENDERED} characters")
                parts.append(part)
        except RecursionError as error:
            raise InvalidArgument("the chat template calls itself too often") from error
        except Exception as error:  # a template can do anything to what it is given
            raise InvalidArgument(f"the chat template refuses: {_line(error)}") from error
        finally:
            _budget.reset(token)
        return "".join(parts)


@lru_cache(maxsize=32)
def compile_template(text: str) -> ChatTemplate:
    """The template of a text; the last few are kept."""
    return ChatTemplate(text)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _loops_over_content(tree: jinja2.nodes.Template) -> bool:
    """Whether a template goes through the parts of a message's content itself."""
    names = {"content"}
    for assign in tree.find_all(jinja2.nodes.Assign):
        if isinstance(assign.target, jinja2.nodes.Name) and _is_content(assign.node, names):
            names.add(assign.target.name)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(jinja2.nodes.For))


def _is_content(node: jinja2.nodes.Node, names: set[str]) -> bool:
    if isinstance(node, jinja2.nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, jinja2.nodes.Getitem):
        return isinstance(node.arg, jinja2.nodes.Const) and node.arg.value == "content"
    return isinstance(node, jinja2.nodes.Name) and node.name in names


def _tag_final(messages: Sequence[dict[str, Any]]) -> str:
    """Mark the end of the last message, which is to go on; its text."""
    message = messages[-1]
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _TAG
        return content
    if not content:
        raise InvalidArgument("chat: continue_final_message is true, and the last has no text")
    last = content[-1]
    message["content"] = [*content[:-1], {**last, "text": last["text"] + _TAG}]
    text: str = last["text"]
    return text


def _cut_at_tag(text: str, final: str) -> str:
    place = text.rfind(_TAG.strip())
    if place < 0 or final.strip() not in text:
        raise InvalidArgument(
            "chat: continue_final_message is true, and the template leaves the last message out"
        )
    # A template that trims messages trims the tag as well, and so the text before it.
    trims = text[place : place + len(_TAG)] != _TAG
    return text[:place].rstrip() if trims else text[:place]
