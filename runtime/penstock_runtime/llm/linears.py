"""The linear layers of a model, of whatever kind."""

from collections.abc import Iterator
from typing import Any

import torch


def linears(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The linear layers of a model that compute as a Linear does, under their names."""
    for name, module in model.named_modules():
        plain = isinstance(module, torch.nn.Linear) and (
            type(module).forward is torch.nn.Linear.forward
        )
        if plain or is_conv1d(module):
            yield name, module


def is_conv1d(module: torch.nn.Module) -> bool:
    """Whether it is GPT-2's kind of a linear layer, whose weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def linear_sizes(module: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, GPT-2's kind too; None of any other module."""
    for names in (("in_features", "out_features"), ("nx", "nf")):
        inputs, outputs = (getattr(module, name, None) for name in names)
        if isinstance(inputs, int) and isinstance(outputs, int):
            return inputs, outputs
    return None


def head_of(model: Any) -> torch.nn.Module | None:
    """The layer that gives a language model's logits."""
    found = getattr(model, "get_output_embeddings", None)
    head: torch.nn.Module | None = found() if found is not None else None
    return head
