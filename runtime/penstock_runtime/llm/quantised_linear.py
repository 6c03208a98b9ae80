"""A linear layer whose weight is quantised: it computes in the dtype of what it is given.

There are three ways to multiply, and all give the product with the numbers that the weight stands
for: the kernel of `quantised_kernel` (bf16 on a CPU that has it), a GPU's for a few rows, and
torch, which is given those numbers a tile at a time, so that they never all exist.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from penstock_runtime.llm.device_kernels import DeviceKernels, device_kernels
from penstock_runtime.llm.quantised_kernel import QuantisedKernel
from penstock_runtime.llm.quantised_weight import QuantisedWeight, concatenate

# Numbers of a tile: few enough that its bytes are still in a cache when they are multiplied.
_TILE = {"cpu": 1 << 18, "cuda": 1 << 26}


# Rows of bf16 up to which torch's own product with int8 is the faster one.
_FEW = 24


class QuantisedLinear(torch.nn.Module):
    """Stands where a Linear stood, or several of one input, whose outputs stand side by side.
    `cuda_kernels` is as in the options of an engine.
    """

    data: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: QuantisedWeight,
        bias: torch.Tensor | None = None,
        kernel: QuantisedKernel | None = None,
        sizes: Sequence[int] = (),
        cuda_kernels: str = "auto",
    ) -> None:
        super().__init__()
        self.bits, self.group = weight.bits, weight.group
        self.in_features, self.out_features = weight.inputs, weight.outputs
        self.sizes = list(sizes) or [weight.outputs]
        self.register_buffer("data", weight.data)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.kernel = kernel if kernel is not None and kernel.fits(weight) else None
        self._bound = self.kernel.bind(weight, self.bias) if self.kernel is not None else None
        self.cuda_kernels = cuda_kernels
        self.device_kernels: DeviceKernels | None = device_kernels(cuda_kernels, weight.data.device)

    @property
    def quantised(self) -> QuantisedWeight:
        """Its weight."""
        return QuantisedWeight(self.bits, self.group, self.data, self.scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As of a Linear; any leading dimensions."""
        return self._product(x)

    def add_to(self, other: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """`other` plus what `forward` gives."""
        # Not by forward, which an adapter may have taken the place of.
        return self._product(x).add_(other)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        if self._bound is not None and x.dtype == torch.bfloat16 and x.device.type == "cpu":
            y = self._bound(rows)
        elif self.device_kernels is not None and self.device_kernels.multiplies(
            rows, self.quantised
        ):
            y = self.device_kernels.multiply(rows, self.quantised, self.bias)
        else:
            y = multiply(rows, self.quantised, self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Any, recurse: bool = True) -> "QuantisedLinear":
        """Moves with its module, but a change of dtype is not for scales: they stay float32."""
        scales, bias = self.scales, self.bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.data.device
        self.scales = scales.to(device)
        self.bias = None if bias is None else bias.to(device)
        fits = self.kernel is not None and self.kernel.fits(self.quantised)
        self._bound = self.kernel.bind(self.quantised, self.bias) if self.kernel and fits else None
        self.device_kernels = device_kernels(self.cuda_kernels, device)
        return self

    def extra_repr(self) -> str:
        """Its sizes."""
        sizes = f"in_features={self.in_features}, out_features={self.sizes}"
        return f"{sizes}, int{self.bits}, group={self.group}"


def multiply(x: torch.Tensor, weight: QuantisedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [rows, inputs] times the weight's numbers, by torch."""
    few = len(x) <= _FEW and x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if few and weight.bits == 8:
        return _multiply_integers(x, weight, bias)
    return multiply_tiles(x, weight, bias)


def _multiply_integers(
    x: torch.Tensor, weight: QuantisedWeight, bias: torch.Tensor | None
) -> torch.Tensor:
    """Without a number of the weight in memory; for more rows it is slower than tiles."""
    ones = x.new_ones(weight.outputs)
    # It would have scales in bf16, which ours are not.
    product: torch.Tensor = torch.ops.aten._weight_int8pack_mm(
        x.contiguous(), weight.integers(), ones
    )
    y = product.float().mul_(weight.scales[:, 0])
    return (y if bias is None else y.add_(bias)).to(x.dtype)


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


def join(layers: Sequence[QuantisedLinear]) -> QuantisedLinear:
    """One layer with the outputs of all, for a fused QKV or gate and up. InvalidArgument where
    their weights are of different kinds.
    """
    weight = concatenate([layer.quantised for layer in layers])
    biases = [_bias(layer) for layer in layers]
    some = any(layer.bias is not None for layer in layers)
    sizes = [layer.out_features for layer in layers]
    bias, first = torch.cat(biases) if some else None, layers[0]
    return QuantisedLinear(weight, bias, first.kernel, sizes, first.cuda_kernels)


def _bias(layer: QuantisedLinear) -> torch.Tensor:
    return layer.scales.new_zeros(layer.out_features) if layer.bias is None else layer.bias
