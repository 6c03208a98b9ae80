"""A weight as int8 (a scale for each output) or int4 (a scale for each group of inputs), in the
layout of the project's kernels: rows of signed integers, of int4 two in a byte, the first in the
low half.

What a quantised weight means is `dequantise`; whoever multiplies by one in another way has to give
the same. It knows nothing of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from penstock_runtime.errors import InvalidArgument

GROUPS = (128, 64, 32)
_FEWEST = 4
_LIMITS = {8: 127, 4: 7}

# What the greatest magnitude of a group is divided by to begin with. Int4 has -8 but no 8, so the
# scale bears the opposite sign of the greatest; beyond 8 the greatest is clipped for the others'
# sake. Of Gaussian weights they leave an error of 9.7 %, a zero point for each group 10.0 %.
_TRIALS = (-8.0, -9.0, -10.0)
# Numbers that are quantised at once: few enough for a cache, and for the memory they leave behind.
_CHUNK = 1 << 17


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """`data` is uint8 [outputs, inputs] or [outputs, inputs / 2], `scales` float32 [outputs,
    inputs / group].
    """

    bits: int
    group: int
    data: torch.Tensor
    scales: torch.Tensor

    @property
    def outputs(self) -> int:
        """How many rows it has."""
        return self.data.shape[0]

    @property
    def inputs(self) -> int:
        """How many columns it has."""
        return self.data.shape[1] * 8 // self.bits

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.data.nbytes + self.scales.nbytes

    def integers(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Its integers, int8 [rows, inputs], of the rows from `first` to `last`."""
        data = self.data[first:last].view(torch.int8)
        if self.bits == 8:
            return data
        # A signed shift to the right brings the sign of each half along.
        return torch.stack(((data << 4) >> 4, data >> 4), -1).view(data.shape[0], -1)

    def dequantise(
        self, dtype: torch.dtype = torch.float32, first: int = 0, last: int | None = None
    ) -> torch.Tensor:
        """The numbers it stands for: integer times scale in float32, rounded to `dtype`."""
        q = self.integers(first, last)
        wide = q.view(len(q), -1, self.group) * self.scales[first:last, :, None]
        return wide.view(len(q), -1).to(dtype)

    def __repr__(self) -> str:
        return f"<int{self.bits} weight {self.outputs}x{self.inputs}, groups of {self.group}>"


def group_for(inputs: int, group: int = GROUPS[0]) -> int:
    """The size of the groups of a row of int4: the greatest up to `group` that divides it, or 0. A
    row has four groups of 128 at least, else they are of 64: a small model needs the more scales.
    """
    fitting = (g for g in GROUPS if g <= group and inputs % g == 0)
    return next((g for g in fitting if g < GROUPS[0] or inputs >= _FEWEST * g), 0)


def quantise_weight(weight: torch.Tensor, bits: int, group: int = GROUPS[0]) -> QuantisedWeight:
    """Quantise a weight [outputs, inputs]; InvalidArgument where no group divides its inputs.

    Int8 is as the kernels make it: the greatest magnitude of a row becomes 127, ties round to even.
    Int4 is the best of some scales for each group, by the squared error of its weights.
    """
    outputs, inputs = weight.shape
    size = inputs if bits == 8 else group_for(inputs, group)
    if bits not in _LIMITS or not size:
        raise InvalidArgument(
            f"a weight of {outputs}x{inputs} cannot be int{bits}, expected 8 bits, or 4 and inputs"
            f" that one of {GROUPS} divides"
        )
    made = QuantisedWeight(
        bits,
        size,
        torch.empty(outputs, inputs * bits // 8, dtype=torch.uint8, device=weight.device),
        torch.empty(outputs, inputs // size, dtype=torch.float32, device=weight.device),
    )
    rows = max(_CHUNK // inputs, 1)
    for first in range(0, outputs, rows):
        part = slice(first, first + rows)
        made.data[part], made.scales[part] = _quantise_rows(weight[part], bits, size)
    return made


def concatenate(parts: Sequence[QuantisedWeight]) -> QuantisedWeight:
    """One weight of the rows of all, which are of one kind."""
    kinds = {(part.bits, part.group, part.inputs) for part in parts}
    if len(kinds) != 1:
        raise InvalidArgument(f"weights of different kinds cannot be one: {list(parts)}")
    if len(parts) == 1:
        return parts[0]
    data = torch.cat([part.data for part in parts])
    scales = torch.cat([part.scales for part in parts])
    return QuantisedWeight(parts[0].bits, parts[0].group, data, scales)


def _quantise_rows(
    weight: torch.Tensor, bits: int, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = weight.detach().float().reshape(-1, group)
    q, scale = _plain(groups, _LIMITS[bits]) if bits == 8 else _searched(groups)
    q = q.view(weight.shape).to(torch.int8)
    if bits == 4:
        q = (q[:, ::2] & 15) | (q[:, 1::2] << 4)
    return q.view(torch.uint8), scale.view(len(weight), -1)


def _plain(groups: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    highest = groups.abs().amax(1)
    inverse = torch.where(highest > 0, limit / highest, 0.0)
    q = (groups * inverse[:, None]).round_().clamp_(-limit, limit)
    return q, highest / limit


def _searched(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The trial that is the best once refined, and that refined again."""
    greatest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    scale, gain = _refined(groups, greatest / _TRIALS[0])
    for trial in _TRIALS[1:]:
        other, more = _refined(groups, greatest / trial)
        scale = torch.where(more > gain, other, scale)
        gain = torch.maximum(more, gain)
    scale, _ = _refined(groups, scale)
    return _rounded(groups, scale), scale


def _refined(groups: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale that suits the integers of a scale, by least squares, and what of the squares of
    the weights it accounts for: the rest is the squared error.
    """
    q = _rounded(groups, scale)
    both, norm = (groups * q).sum(1, keepdim=True), q.square_().sum(1, keepdim=True)
    refined = torch.where(norm > 0, both / norm, 0.0)
    return refined, both * refined


def _rounded(groups: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    inverse = torch.where(scale != 0, 1 / scale, 0.0)
    return (groups * inverse).round_().clamp_(-8, 7)
