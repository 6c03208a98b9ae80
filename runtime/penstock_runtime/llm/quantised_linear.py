"""A linear layer whose weight is quantised: it computes in the dtype of what it is given.

There are two ways to multiply, and both give the product with the numbers that the weight stands
for: the kernel of `quantised_kernel` (bf16 on a CPU that has it), and torch, which is given those
numbers a tile at a time, so that they never all exist.
"""

import torch
from torch.nn import functional

from penstock_runtime.llm.quantised_kernel import QuantisedKernel
from penstock_runtime.llm.quantised_weight import QuantisedWeight, concatenate

# Numbers of a tile: few enough that its bytes are still in a cache when they are multiplied.
_TILE = {"cpu": 1 << 18, "cuda": 1 << 26}


class QuantisedLinear(torch.nn.Module):
    """Stands where a Linear stood. `packed_bytes` is what it takes beside its buffers: nothing."""

    data: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    packed_bytes = 0

    def __init__(
        self,
        weight: QuantisedWeight,
        bias: torch.Tensor | None = None,
        kernel: QuantisedKernel | None = None,
    ) -> None:
        super().__init__()
        self.bits, self.group = weight.bits, weight.group
        self.in_features, self.out_features = weight.inputs, weight.outputs
        self.register_buffer("data", weight.data)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.kernel = kernel if kernel is not None and kernel.fits(weight) else None

    @property
    def quantised(self) -> QuantisedWeight:
        """Its weight."""
        return QuantisedWeight(self.bits, self.group, self.data, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As of a Linear; any leading dimensions."""
        rows = x.reshape(-1, self.in_features)
        if self.kernel is not None and x.dtype == torch.bfloat16 and x.device.type == "cpu":
            y = self.kernel(rows, self.quantised, self.bias)
        else:
            y = multiply_tiles(rows, self.quantised, self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: object, recurse: bool = True) -> "QuantisedLinear":
        """Moves with its module, but a change of dtype is not for scales: they stay float32."""
        kept = self.scales, self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales = kept[0].to(self.data.device)
        self.bias = None if kept[1] is None else kept[1].to(self.data.device)
        if self.data.device.type != "cpu":
            self.kernel = None
        return self

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"{self.in_features}, {self.out_features}, int{self.bits}, group={self.group}"


def multiply_tiles(
    x: torch.Tensor, weight: QuantisedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """x [rows, inputs] times the weight's numbers in the dtype of x, some outputs at a time."""
    tile = max(_TILE.get(x.device.type, 1 << 20) // weight.inputs, 64)
    y = x.new_empty(len(x), weight.outputs)
    for first in range(0, weight.outputs, tile):
        last = min(first + tile, weight.outputs)
        numbers = weight.dequantise(x.dtype, first, last)
        part = None if bias is None else bias[first:last].to(x.dtype)
        y[:, first:last] = functional.linear(x, numbers, part)
    return y


def join(layers: list[QuantisedLinear]) -> QuantisedLinear:
    """One layer with the outputs of all, for a fused QKV or gate and up. InvalidArgument where
    their weights are of different kinds.
    """
    weight = concatenate([layer.quantised for layer in layers])
    biases = [_bias(layer) for layer in layers]
    some = any(layer.bias is not None for layer in layers)
    kernels = [layer.kernel for layer in layers]
    return QuantisedLinear(weight, torch.cat(biases) if some else None, kernels[0])


def _bias(layer: QuantisedLinear) -> torch.Tensor:
    return layer.scales.new_zeros(layer.out_features) if layer.bias is None else layer.bias
