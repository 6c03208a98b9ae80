"""What the `parameters` of a configuration say of an encoder, beside what every language model's
say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument

POOLINGS = ("mean", "cls", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean")
ACTIVATIONS = ("sigmoid", "softmax", "none")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
_NO_PROMPTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """An empty text and None leave to the folder what it says.

    `pooling`, `normalize` and `activation` are of the model's head; `truncate` false refuses what
    is too long; `prompts` are texts by name that go in front, `default_prompt_name` tells the one
    that is used where a request names none. `call_tokens` is what a call of the model costs beside
    its tokens, as a number of tokens: 0 means that it is measured.
    """

    pooling: str = ""
    normalize: bool | None = None
    activation: str = ""
    truncate: bool = True
    prompts: Mapping[str, str] = field(default_factory=lambda: _NO_PROMPTS)
    default_prompt_name: str = ""
    call_tokens: int = 0


def read_encoder_options(config: ModelConfig) -> EncoderOptions:
    """The options of a configuration; InvalidArgument names a parameter whose value is no good."""
    normalize = config.parameter("normalize").strip()
    return EncoderOptions(
        pooling=_choice(config, "pooling", POOLINGS, {"last": "lasttoken"}),
        normalize=_flag(config, "normalize", True) if normalize else None,
        activation=_choice(config, "activation", ACTIVATIONS, {"identity": "none"}),
        truncate=_flag(config, "truncate", True),
        prompts=_prompts(config),
        default_prompt_name=config.parameter("default_prompt_name").strip(),
        call_tokens=_count(config, "call_tokens"),
    )


def dtype_name(config: ModelConfig, asked: str) -> str:
    """The dtype that `dtype` asks for, in torch's words, or "auto"."""
    name = _DTYPE_NAMES.get(asked.lower(), asked.lower()).removeprefix("torch.") or "auto"
    if name not in DTYPES:
        raise _refused(config, "dtype", asked, f"one of {', '.join((*DTYPES, *_DTYPE_NAMES))}")
    return name


def _choice(
    config: ModelConfig, key: str, known: tuple[str, ...], aliases: Mapping[str, str]
) -> str:
    text = config.parameter(key).strip().lower()
    chosen = "" if text == "auto" else aliases.get(text, text)
    if chosen and chosen not in known:
        raise _refused(config, key, text, f"auto or one of {', '.join((*known, *aliases))}")
    return chosen


def _flag(config: ModelConfig, key: str, default: bool) -> bool:
    text = config.parameter(key).strip().lower()
    if text not in ("", "true", "false", "1", "0"):
        raise _refused(config, key, text, "true or false")
    return text in ("true", "1") if text else default


def _count(config: ModelConfig, key: str) -> int:
    text = config.parameter(key).strip()
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise _refused(config, key, text, "an integer from 0")
    return int(text or 0)


def _prompts(config: ModelConfig) -> Mapping[str, str]:
    text = config.parameter("prompts").strip()
    if not text:
        return _NO_PROMPTS
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return MappingProxyType(found)
    raise _refused(config, "prompts", text, 'JSON such as {"query": "query: "}')


def _refused(config: ModelConfig, key: str, value: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': parameter {key} is {value[:64]!r}, expected {expected}"
    )
