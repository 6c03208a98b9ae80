"""The linear layers of an encoder on a CPU, laid out once and for all as oneDNN likes them.

It is what torch's compiler emits for weights that do not change, and nearly doubles an encoder's
speed; the calls are not documented, so they may be missing, and a model may look into its layers.
Hence the caller compares what the model gives before and after.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Whoever wants torch's own layers says so in `cpu_kernels`.
OFF = ("none", "off", "torch", "false", "0")
_CALLS = ("_reorder_linear_weight", "_linear_pointwise")
_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """x [..., inputs] -> x W^T + b [..., outputs]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(weight))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The product, by the layout that was chosen."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return found


def can_pack(device: torch.device, dtype: torch.dtype, wanted: str) -> bool:
    """Whether linear layers of this dtype can be laid out for this device."""
    if device.type != "cpu" or dtype not in _DTYPES or wanted.lower() in OFF:
        return False
    known = bool(torch._C._has_mkldnn) and all(hasattr(torch.ops.mkldnn, name) for name in _CALLS)
    return known and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def pack(module: nn.Module) -> Callable[[], None]:
    """Replace the linear layers of a module; what is returned puts the old ones back."""
    replaced: list[tuple[nn.Module, str, nn.Linear]] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # A subclass may do more than multiply.
            if type(child) is nn.Linear:
                replaced.append((parent, name, child))
                setattr(parent, name, PackedLinear(child))

    def undo() -> None:
        for parent, name, child in replaced:
            setattr(parent, name, child)

    return undo
