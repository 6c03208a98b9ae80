"""Linear layers whose weights lie in memory as oneDNN multiplies them. The two operators are
private to torch: they are tried before they are relied upon.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear

from penstock_runtime.llm.quantised_linear import QuantisedLinear, join

_log = logging.getLogger("penstock.llm")
# Rows that a packed weight is laid out for; it serves any number, but for 1 it is laid out worse.
ROWS = 16
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def of_one_kind(layers: Sequence[Any]) -> bool:
    """Whether layers can be one: none is quantised, or all are in the same way."""
    return (
        len({(type(one), getattr(one, "bits", 0), getattr(one, "group", 0)) for one in layers}) == 1
    )


def whole_of(layers: Sequence[Any]) -> Any:
    """One layer for several of the same input, packed or, of quantised ones, joined."""
    if all(isinstance(layer, QuantisedLinear) for layer in layers):
        return join(layers)
    return PackedLinear(layers)


class PackedLinear(torch.nn.Module):
    """One linear layer, or several of the same input as one: their outputs stand side by side."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        super().__init__()
        weights = [layer.weight.detach() for layer in layers]
        self.in_features = weights[0].shape[1]
        self.sizes = [weight.shape[0] for weight in weights]
        self.out_features = sum(self.sizes)
        whole = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(whole.contiguous(), ROWS)
        self.packed_bytes = int(torch.ops.mkldnn._nbytes(self.packed))
        self.bias = _joint_bias(layers)
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._added = torch.ops.mkldnn._linear_pointwise.binary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x times the weights, plus the bias."""
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        found: torch.Tensor = self._linear(x, self.packed, self.bias, "none", [], "")
        return found

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`other` plus what `forward` gives."""
        found: torch.Tensor = self._added(x, other, self.packed, self.bias, "add")
        return found

    def extra_repr(self) -> str:
        """The sizes, for who prints the model."""
        return f"in_features={self.in_features}, out_features={self.sizes}"


def _joint_bias(layers: Sequence[torch.nn.Linear]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts)


@cache
def packable(dtype: torch.dtype) -> bool:
    """Whether this torch on this processor multiplies packed weights of this dtype, and rightly."""
    if dtype not in TOLERANCE:
        return False
    try:
        with torch.inference_mode():
            layer = torch.nn.Linear(32, 48, dtype=dtype)
            x, other = trial_input(3, 32, dtype=dtype), trial_input(3, 48, dtype=dtype)
            packed = PackedLinear([layer])
            expected = linear(x, layer.weight, layer.bias)
            near = is_near(packed(x), expected)
            return near and is_near(packed.add_to(other, x), expected + other)
    except Exception as error:
        _log.info("weights of %s are not packed: %s", dtype, error)
        return False


def trial_input(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers to try something on; always the same ones."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def is_near(found: Any, expected: torch.Tensor) -> bool:
    """Whether two ways of computing the same agree as far as their dtype goes."""
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    error = (found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-9)
    return bool(error <= TOLERANCE[expected.dtype])


class _Share(torch.nn.Module):
    """One of several layers that are computed as one when the first of them is called."""

    def __init__(self, joint: "JointLinear", place: int) -> None:
        super().__init__()
        # In a tuple, so that the joint layer is not counted as a part of each.
        self._joint = (joint,)
        self._place = place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """This layer's part for x."""
        return self._joint[0].part(self._place, x)


class JointLinear:
    """Layers that are always given the same input one after the other, such as those of queries,
    keys and values; each is replaced by its share.
    """

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        self.whole = whole_of(layers)
        self.shares = [_Share(self, place) for place in range(len(layers))]
        self.shares[0].add_module("whole", self.whole)
        self._input: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """The part of one layer for x, which is held until the last has asked for its own."""
        if x is not self._input:
            self._parts = torch.split(self.whole(x), self.whole.sizes, -1)
            self._input = x
        found = self._parts[place]
        if place == len(self.shares) - 1:
            self._input, self._parts = None, ()
        return found
