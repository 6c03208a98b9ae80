"""A causal language model in memory, and what an engine has to know of it."""

from dataclasses import dataclass
from typing import Any

import torch

from penstock_runtime.llm.completing import LENGTHS
from penstock_runtime.llm.kv_pool import LayerShape


@dataclass(frozen=True, slots=True)
class LoadedCausalModel:
    """`model` is the module of transformers and `config` its text configuration; `paged` says
    whether it runs packed over pages, `reason` why not; `shapes` are of its attention layers then.
    """

    model: Any
    config: Any
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    dtype: torch.dtype
    device: torch.device
    paged: bool
    reason: str
    shapes: tuple[LayerShape, ...]
    memory_bytes: int


def eos_token_ids(model: Any) -> frozenset[int]:
    """The tokens that end a text, as its configuration or its generation configuration says."""
    found: set[int] = set()
    for config in (model.config.get_text_config(), getattr(model, "generation_config", None)):
        named = getattr(config, "eos_token_id", None)
        if named is not None:
            found.update(named if isinstance(named, list | tuple) else (named,))
    return frozenset(found)


def longest(config: Any) -> int:
    """How many tokens a text may have; 0 where the configuration sets no limit."""
    for name in LENGTHS:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return 0


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers; memory that two share is counted once."""
    storages = {
        (tensor.device, tensor.untyped_storage().data_ptr()): tensor.untyped_storage().nbytes()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.layout == torch.strided
    }
    packed = sum(getattr(module, "packed_bytes", 0) for module in model.modules())
    return sum(storages.values()) + packed
