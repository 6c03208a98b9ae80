"""What the responses of a generative model say: its choices, their tokens, counts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.generative.question import CUMULATIVE, LOGPROBS, PROMPT_LOGPROBS, TIME_OUTPUTS
from penstock_runtime.request import InferResponse

LEAST_LOGPROB = -9999.0
"""JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its logarithmic probability, and what number it was by that (None: unknown)."""

    id: int
    text: str
    logprob: float | None = None
    rank: int | None = None
    special: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a text: the token that is there, and the likeliest that could have been, which may
    be the same.
    """

    token: Token
    top: tuple[Token, ...] = ()

    def likeliest(self, count: int) -> tuple[Token, ...]:
        """So many of the likeliest, in order."""
        known = [t for t in (self.token, *self.top) if t.rank is not None and t.rank <= count]
        return tuple(sorted(known, key=lambda token: token.rank or 0)[:count])


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice, or what is new of it; `finish_reason` is "" while it goes on, `output_tokens` the
    total so far.
    """

    index: int
    text: str
    finish_reason: str = ""
    stop_reason: str = ""
    places: tuple[Place, ...] = ()
    output_tokens: int = 0
    cumulative_logprob: float = 0.0

    @property
    def at_end_of_sequence(self) -> bool:
        """Whether the model itself ended it, with a token that says so."""
        return self.finish_reason == "stop" and not self.stop_reason


@dataclass(frozen=True, slots=True)
class Times:
    """How long an answer took so far, in nanoseconds, and what that costs; 0 for what is not known
    yet.
    """

    ttft_ns: int = 0
    queue_ns: int = 0
    itl_mean_ns: int = 0
    compute_ns: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; `cached_tokens` and `times` None where the model does not tell."""

    choices: tuple[Choice, ...]
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    prompt: tuple[Place | None, ...] = ()
    prompt_document: Any = None
    """As `prompt`, as the model said it."""
    times: Times | None = None


def read_answer(response: InferResponse) -> Answer:
    """What a response says, whatever it leaves out."""
    values = {output.name: output.numpy().reshape(-1).tolist() for output in response.outputs}
    prompt = _document(values.get(PROMPT_LOGPROBS, ()))
    return Answer(
        tuple(_choices(values)),
        _first(values, "num_input_tokens") or 0,
        _first(values, "cached_tokens"),
        tuple(_place(entry) if entry else None for entry in prompt or ()),
        prompt,
        _times(values),
    )


def likeliest_first(choices: Sequence[Choice]) -> list[Choice]:
    """The choices whose tokens were the likeliest on average before the others."""
    return sorted(choices, key=lambda c: -c.cumulative_logprob / max(c.output_tokens, 1))


def _choices(values: Mapping[str, list[Any]]) -> Iterator[Choice]:
    for number, text in enumerate(values.get("text_output", ())):
        logprobs = _document(values.get(LOGPROBS, ())[number:])
        yield Choice(
            _nth(values, "index", number, number),
            _text(text),
            _text(_nth(values, "finish_reason", number, b"")),
            _text(_nth(values, "stop_reason", number, b"")),
            tuple(_place(entry) for entry in logprobs or () if entry),
            _nth(values, "num_output_tokens", number, 0),
            _nth(values, CUMULATIVE, number, 0.0),
        )


def _first(values: Mapping[str, list[Any]], name: str) -> int | None:
    value: int | None = _nth(values, name, 0, None)
    return value


def _times(values: Mapping[str, list[Any]]) -> Times | None:
    said = {name: values[name][0] for name in TIME_OUTPUTS if values.get(name)}
    return Times(**said) if said else None


def _nth(values: Mapping[str, list[Any]], name: str, number: int, default: Any) -> Any:
    found = values.get(name, ())
    return found[number] if number < len(found) else default


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _document(values: Any) -> Any:
    return json.loads(values[0]) if values and values[0] else None


def _place(entry: Mapping[str, Mapping[str, Any]]) -> Place:
    """In vLLM's form: the token that is there comes first."""
    first, *others = (_token(int(key), value) for key, value in entry.items())
    return Place(first, tuple(others))


def _token(number: int, said: Mapping[str, Any]) -> Token:
    logprob = said.get("logprob")
    return Token(
        number,
        str(said.get("decoded_token") or ""),
        None if logprob is None else max(float(logprob), LEAST_LOGPROB),
        said.get("rank"),
        bool(said.get("special", False)),
    )
