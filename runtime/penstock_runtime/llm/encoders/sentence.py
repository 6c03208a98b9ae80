"""What a folder of sentence-transformers says of what comes after the encoder: pooling, dense
layers, normalisation; and of prompts and lengths.

A folder without such files is pooled by the mean, and not normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import Unsupported
from penstock_runtime.llm.encoders.folder import (
    WEIGHTS,
    broken,
    optional_json,
    optional_list,
    read_json_at,
)
from penstock_runtime.llm.encoders.options import POOLINGS

MODULES = "modules.json"
SENTENCES = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
# How folders named them before there was `pooling_mode`, in the order in which they are joined.
_LEGACY: Mapping[str, str] = MappingProxyType(
    {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens": "weightedmean",
        "pooling_mode_lasttoken": "lasttoken",
    }
)
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid")


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after the pooling; `location` is its folder."""

    location: str
    inputs: int
    outputs: int
    bias: bool
    activation: str


Step = Dense | str
"""What is done to a pooled vector: a dense layer, or "normalize"."""
NORMALIZE = "normalize"


@dataclass(frozen=True, slots=True)
class Sentences:
    """Poolings whose vectors are joined, what is done to them then, and how texts are treated; 0
    for `max_tokens` where the folder does not tell.
    """

    pooling: tuple[str, ...] = ("mean",)
    steps: tuple[Step, ...] = ()
    max_tokens: int = 0
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    default_prompt: str = ""


def read_sentences(source: ModelSource) -> Sentences:
    """What the files say. Unsupported for a module that is not known here."""
    pooling, steps = _modules(source)
    texts = optional_json(source, SENTENCES)
    named = optional_json(source, PROMPTS)
    prompts = named.get("prompts")
    longest = texts.get("max_seq_length")
    return Sentences(
        pooling=pooling,
        steps=steps,
        max_tokens=longest if type(longest) is int and longest > 0 else 0,
        lower_case=texts.get("do_lower_case") is True,
        prompts=MappingProxyType(_texts(prompts) if isinstance(prompts, dict) else {}),
        default_prompt=str(named.get("default_prompt_name") or ""),
    )


def _texts(prompts: Mapping[str, Any]) -> dict[str, str]:
    return {name: text for name, text in prompts.items() if isinstance(text, str)}


def _modules(source: ModelSource) -> tuple[tuple[str, ...], tuple[Step, ...]]:
    pooling: tuple[str, ...] = ()
    steps: list[Step] = []
    for number, module in enumerate(optional_list(source, MODULES)):
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Transformer" and number == 0 and not path:
            continue
        if kind == "Pooling" and not pooling and not steps:
            pooling = _pooling(source, path)
        elif kind == "Normalize":
            steps.append(NORMALIZE)
        elif kind == "Dense" and pooling:
            steps.append(_dense(source, path))
        elif kind != "Dropout":
            raise Unsupported(
                f"model '{source.config.name}': {MODULES} has {kind[:64]!r} as module {number},"
                " expected Transformer (in the folder itself), Pooling, Dense and Normalize, in"
                " this order",
                reason="NOT_AVAILABLE",
            )
    return pooling or ("mean",), tuple(steps)


def _pooling(source: ModelSource, path: str) -> tuple[str, ...]:
    name = f"{path}/config.json"
    said = read_json_at(source, name)
    mode = said.get("pooling_mode")
    if mode is None:
        modes = [mode for key, mode in _LEGACY.items() if said.get(key) is True] or ["mean"]
    else:
        modes = list(mode) if isinstance(mode, list) else [mode]
    for mode in modes:
        if mode not in POOLINGS:
            known = ", ".join(POOLINGS)
            raise broken(source, name, f"has the pooling {str(mode)[:32]!r}, expected {known}")
    if said.get("include_prompt") is False:
        raise broken(source, name, "says include_prompt: false, which is not supported")
    return tuple(modes)


def _dense(source: ModelSource, path: str) -> Dense:
    name = f"{path}/config.json"
    said = read_json_at(source, name)
    inputs, outputs = said.get("in_features"), said.get("out_features")
    activation = str(said.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if type(inputs) is not int or type(outputs) is not int or min(inputs, outputs) < 1:
        raise broken(source, name, "has no in_features and out_features")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise broken(source, name, f"has the activation {activation[:32]!r}, expected {known}")
    if said.get("use_residual"):
        raise broken(source, name, "says use_residual: true, which is not supported")
    if not (source.directory / path / WEIGHTS).is_file():
        raise broken(source, f"{path}/{WEIGHTS}", "is missing (a pickle is not read)")
    return Dense(path, inputs, outputs, said.get("bias") is not False, activation)
