"""A linear layer to which each token may have an adapter of its own. The layer below may be plain,
packed, fused or quantised: it is only called.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from penstock_runtime.llm.linears import linear_sizes
from penstock_runtime.llm.lora_file import Factors

NONE = -1
Where = torch.Tensor | slice


class AdapterRows:
    """Which tokens of the step have which adapter. All layers of a model share one, and the thread
    that runs the model sets it before each step.
    """

    __slots__ = ("segments",)

    def __init__(self) -> None:
        self.segments: tuple[tuple[int, Where], ...] = ()

    def set(self, indices: torch.Tensor | Sequence[int] | None, device: torch.device) -> None:
        """The slot of each token, NONE without; None where no token has one."""
        self.segments = ()
        if indices is not None:
            rows = torch.as_tensor(indices, dtype=torch.int64).cpu()
            slots = sorted(set(rows.tolist()) - {NONE})
            self.segments = tuple((slot, _where(rows == slot, device)) for slot in slots)

    def set_all(self, slot: int) -> None:
        """All tokens have this one, however many they are."""
        self.segments = () if slot == NONE else ((slot, slice(None)),)


def _where(mask: torch.Tensor, device: torch.device) -> Where:
    found = mask.nonzero().flatten()
    first, last = int(found[0]), int(found[-1])
    # A slice is read where it lies; others are gathered.
    return slice(first, last + 1) if last - first + 1 == len(found) else found.to(device)


class LoraLinear(torch.nn.Module):
    """A layer and the factors of adapters, by slot."""

    def __init__(self, base: torch.nn.Module, rows: AdapterRows) -> None:
        super().__init__()
        self.base = base
        self.rows = rows
        sizes = linear_sizes(base)
        assert sizes is not None
        self.in_features, self.out_features = sizes
        self.factors: dict[int, Factors] = {}

    @property
    def weight(self) -> Any:
        """The layer's below, if that has one."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """The layer's below."""
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As of the layer below, and what the tokens' adapters add."""
        y: torch.Tensor = self.base(x)
        if not self.rows.segments or not self.factors:
            return y
        y = y.contiguous()
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        for slot, where in self.rows.segments:
            factors = self.factors.get(slot)
            if factors is not None:
                low = functional.linear(flat_x[where], factors.a)
                flat_y[where] += functional.linear(low, factors.b)
        return y

    def put(self, slot: int, parts: Sequence[tuple[int, Factors]], device: torch.device) -> None:
        """The factors of an adapter: of the layer, or of parts of it, each from an output on."""
        self.factors[slot] = _joined(parts, self.out_features, device)

    def drop(self, slot: int) -> None:
        """The slot is free."""
        self.factors.pop(slot, None)

    def extra_repr(self) -> str:
        """The slots that change it."""
        return f"slots={sorted(self.factors)}"


def _joined(parts: Sequence[tuple[int, Factors]], outputs: int, device: torch.device) -> Factors:
    """One pair of factors: those of the parts below each other, and beside each other with zeros
    for the outputs that are not theirs.
    """
    first, factors = parts[0]
    if len(parts) == 1 and first == 0 and len(factors.b) == outputs:
        return Factors(factors.a.to(device), factors.b.to(device))
    a = torch.cat([one.a for _, one in parts])
    b = a.new_zeros(outputs, len(a))
    column = 0
    for first, one in parts:
        rank = one.b.shape[1]
        b[first : first + len(one.b), column : column + rank] = one.b
        column += rank
    return Factors(a.to(device), b.to(device))
