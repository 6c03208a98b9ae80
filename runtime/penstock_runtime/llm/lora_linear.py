"""What the adapters of a step's tokens add to a linear layer. The layer may be plain, packed, fused
or quantised: it is only called, and stays where it is, for others hold it too.
"""

from collections.abc import Sequence
from typing import Any

import torch

from penstock_runtime.llm.linears import linear_sizes
from penstock_runtime.llm.lora_file import Factors
from penstock_runtime.llm.transfers import down

NONE = -1
_NAMES = ("forward", "add_to")
# Tokens of a step up to which those of several adapters are multiplied at once.
_MOST_MASKED = 64
Where = torch.Tensor | slice


class AdapterRows:
    """Which tokens of the step have which adapter. All layers of a model share one, and the thread
    that runs the model sets it before each step. `segments` are a slot and its tokens each;
    `owners`, int64 [tokens, 1], are the slots of all tokens, where several occur.
    """

    __slots__ = ("owners", "segments")

    def __init__(self) -> None:
        self.segments: tuple[tuple[int, Where], ...] = ()
        self.owners: torch.Tensor | None = None

    def set(self, indices: torch.Tensor | Sequence[int] | None, device: torch.device) -> None:
        """The slot of each token, NONE without; None where no token has one."""
        self.segments, self.owners = (), None
        if indices is not None:
            rows = torch.as_tensor(indices, dtype=torch.int64).cpu()
            slots = sorted(set(rows.tolist()) - {NONE})
            self.segments = tuple((slot, _where(rows == slot, device)) for slot in slots)
            self.owners = down(rows.numpy(), device)[:, None] if len(slots) > 1 else None

    def set_all(self, slot: int) -> None:
        """All tokens have this one, however many they are."""
        self.segments, self.owners = (() if slot == NONE else ((slot, slice(None)),)), None


def _where(mask: torch.Tensor, device: torch.device) -> Where:
    found = mask.nonzero().flatten()
    first, last = int(found[0]), int(found[-1])
    # A slice is read where it lies; others are gathered.
    return slice(first, last + 1) if last - first + 1 == len(found) else down(found.numpy(), device)


class _Stack:
    """The factors of several adapters of a layer, one below the other: a few tokens are multiplied
    by all, and what is not their own is left out. That takes four operations, not four for each.
    """

    __slots__ = ("a", "b", "columns", "slots")

    def __init__(self, slots: tuple[int, ...], factors: dict[int, Factors]) -> None:
        self.slots = slots
        here = [slot for slot in slots if slot in factors]
        a = torch.cat([factors[slot].a for slot in here])
        self.a = a.t()
        self.b = torch.cat([factors[slot].b for slot in here], 1).t()
        columns = [slot for slot in here for _ in range(len(factors[slot].a))]
        self.columns = torch.tensor(columns, device=a.device)

    def add(self, x: torch.Tensor, y: torch.Tensor, owners: torch.Tensor) -> None:
        """Add to y [tokens, outputs] what each token's adapter makes of x."""
        low = x @ self.a
        # Not by a product with 0: what is left out may be infinite.
        y.addmm_(low.masked_fill_(owners != self.columns, 0), self.b)


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
        self._stack: _Stack | None = None
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
        segments, owners = self.rows.segments, self.rows.owners
        if not segments:
            return y
        y = y.contiguous()
        flat_x, flat_y = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if owners is not None and len(owners) <= _MOST_MASKED:
            stack = self._stack_of(tuple(slot for slot, _ in segments))
            if stack is not None:
                stack.add(flat_x, flat_y, owners)
            return y
        for slot, where in segments:
            if slot in self.factors:
                _add_segment(flat_x, flat_y, where, self.factors[slot])
        return y

    def _stack_of(self, slots: tuple[int, ...]) -> _Stack | None:
        """Of these slots; steps that follow each other mostly have the same ones."""
        if self._stack is None or self._stack.slots != slots:
            if self.factors.keys().isdisjoint(slots):
                return None
            self._stack = _Stack(slots, self.factors)
        return self._stack

    def put(self, slot: int, parts: Sequence[tuple[int, Factors]], device: torch.device) -> None:
        """The factors of an adapter: of the layer, or of parts of it, each from an output on."""
        self.factors[slot] = _joined(parts, self.outputs, device)
        self._stack = None

    def drop(self, slot: int) -> bool:
        """The slot is free. True where no adapter is left, and the layer is as it was."""
        del self.factors[slot]
        self._stack = None
        if self.factors:
            return False
        for name in _NAMES:
            vars(self._layer).pop(name, None)
        vars(self._layer).update(self._before)
        return True

    def __repr__(self) -> str:
        return f"<LoraForward of slots {sorted(self.factors)}>"


def _add_segment(x: torch.Tensor, y: torch.Tensor, where: Where, factors: Factors) -> None:
    low = x[where] @ factors.a.t()
    if isinstance(where, slice):
        y[where].addmm_(low, factors.b.t())
    else:
        y.index_add_(0, where, low @ factors.b.t())


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
