"""How the next tokens of one request are chosen, and when it ends; the names are vLLM's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any

DEFAULT_MAX_TOKENS = 16
NO_BIAS: Mapping[int, float] = MappingProxyType({})


class StructuredKind(Enum):
    """What a structured answer is described by."""

    JSON = "json"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"
    STRUCTURAL_TAG = "structural_tag"


@dataclass(frozen=True, slots=True)
class Structured:
    """The form that an answer must have; `text` is a schema (JSON), a pattern, choices (a JSON list
    of strings) or a grammar, by its kind.
    """

    kind: StructuredKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What one request asks for. Ranges are checked where it is read (`sampling_reader`).

    `temperature` 0 is greedy; `top_k` 0 keeps all; `seed` None draws one; `max_tokens` None means
    as many as fit; `logprobs` None gives none, N the N likeliest beside the chosen one, and so for
    `prompt_logprobs`; `stream_interval` is how many tokens a streamed response has at least.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=lambda: NO_BIAS)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    skip_reading_prefix_cache: bool = False
    stream_interval: int = 1
    structured: Structured | None = None
    adapter: str = ""

    def told(self) -> dict[str, Any]:
        """What is not as by default, for a record."""
        return {
            field.name: value if isinstance(value, int | float | str | list | tuple) else str(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(_DEFAULTS, field.name)
        }

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0


_DEFAULTS = SamplingParams()
