"""What the adapters of a step's tokens add to a linear layer. The layer may be plain, packed, fused
or quantised: it is only called, and stays where it is, for others hold it too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from penstock_runtime.llm.linears import linear_sizes
from penstock_runtime.llm.lora_file import Factors

NONE = -1
_NAMES = ("forward", "add_to")
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


class LoraForward:
    """Takes the place of a layer's `forward` (and `add_to`, where it has that) while an adapter
    changes it; the factors are kept by slot.
    """

    def __init__(self, layer: Any, rows: AdapterRows) -> None:
        sizes = linear_sizes(layer)
        assert sizes is not None
        self.outputs = sizes[1]
        self.rows = rows
        self.factors: dict[int, Factors] = {}
        self._layer = layer
        # Most layers have these of their class alone.
        self._before = {name: vars(layer)[name] for name in _NAMES if name in vars(layer)}
        self._forward = layer.forward
        self._add_to = getattr(layer, "add_to", None)
        layer.forward = self
        if self._add_to is not None:
            layer.add_to = self.add_to

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """As of the layer, and what the tokens' adapters add."""
        return self._changed(x, self._forward(x))

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """As of the layer, and what the tokens' adapters add."""
        assert self._add_to is not None
        return self._changed(x, self._add_to(other, x))

    def _changed(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not self.rows.segments:
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
        self.factors[slot] = _joined(parts, self.outputs, device)

    def drop(self, slot: int) -> bool:
        """The slot is free. True where no adapter is left, and the layer is as it was."""
        del self.factors[slot]
        if self.factors:
            return False
        for name in _NAMES:
            vars(self._layer).pop(name, None)
        vars(self._layer).update(self._before)
        return True

    def __repr__(self) -> str:
        return f"<LoraForward of slots {sorted(self.factors)}>"


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
