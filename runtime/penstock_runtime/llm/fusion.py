"""Makes a model faster on a CPU: packed weights, layers of one input as one matrix, norms and gated
activations as one pass. Each replacement is tried beside what it replaces and kept only if it gives
the same; whatever is not known by its parts stays as it is.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from penstock_runtime.llm.cpu_kernels import RowKernels, row_kernels
from penstock_runtime.llm.packed_linear import (
    JointLinear,
    PackedLinear,
    is_near,
    of_one_kind,
    packable,
    trial_input,
    whole_of,
)
from penstock_runtime.llm.quantised_linear import QuantisedLinear

_log = logging.getLogger("penstock.llm")
STYLES = (0, 1, 2)
ACTIVATIONS = (0, 1)
TRIAL_ROWS = 5


@dataclass(frozen=True, slots=True)
class FusedNorm:
    """A root-mean-square norm as one pass; see `RowKernels.norm`."""

    kernels: RowKernels
    weight: torch.Tensor
    epsilon: float
    style: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> the same."""
        return self.kernels.norm(x, self.weight, self.epsilon, self.style)


@dataclass(frozen=True, slots=True)
class FusedMlp:
    """down(activation(gate(x)) * up(x)), with gate and up as one matrix."""

    kernels: RowKernels
    gate_up: PackedLinear
    down: PackedLinear
    activation: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> the same."""
        return self.down(self.gated(x))  # type: ignore[no-any-return]

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        """What goes into `down`."""
        return self.kernels.gate(self.gate_up(x), self.activation)


def fuse(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Replace what can be replaced by something faster; how many modules were."""
    if not packable(dtype):
        return 0
    kernels = row_kernels()
    with torch.inference_mode():
        fused = sum(_fuse_one(module, dtype, kernels) for module in list(model.modules()))
        return fused + _pack_linears(model, dtype)


def _fuse_one(module: Any, dtype: torch.dtype, kernels: RowKernels | None) -> bool:
    if kernels is not None and _is_norm(module, dtype):
        return _fuse_norm(module, kernels)
    gated = _has_linears(module, dtype, "gate_proj", "up_proj", "down_proj")
    if kernels is not None and gated and of_one_kind([module.gate_proj, module.up_proj]):
        return _fuse_mlp(module, dtype, kernels)
    if _has_linears(module, dtype, "q_proj", "k_proj", "v_proj"):
        layers = [module.q_proj, module.k_proj, module.v_proj]
        if not of_one_kind(layers):
            return False
        joint = JointLinear(layers)
        module.q_proj, module.k_proj, module.v_proj = joint.shares
        return True
    return False


# -- norms -----------------------------------------------------------------------------------------


def _is_norm(module: Any, dtype: torch.dtype) -> bool:
    own = list(module.named_parameters())
    return (
        "RMSNorm" in type(module).__name__
        and len(own) == 1
        and own[0][0] == "weight"
        and own[0][1].dim() == 1
        and own[0][1].dtype == dtype
        and isinstance(_epsilon(module), float)
    )


def _epsilon(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _fuse_norm(module: Any, kernels: RowKernels) -> bool:
    """By the style that agrees for weights of all sizes; a new model's are all alike."""
    weight, epsilon = module.weight, _epsilon(module) or 0.0
    x = trial_input(TRIAL_ROWS, weight.shape[0], dtype=weight.dtype)
    module.weight = torch.nn.Parameter(x[0] * x[1], requires_grad=False)
    try:
        expected = module(x)
        fitting = _fitting(
            expected, STYLES, lambda style: kernels.norm(x, module.weight, epsilon, style)
        )
    finally:
        module.weight = weight
    if fitting is None:
        return False
    module.forward = FusedNorm(kernels, weight.detach().contiguous(), epsilon, fitting)
    return True


def _fitting(
    expected: torch.Tensor, kinds: tuple[int, ...], compute: Callable[[int], torch.Tensor]
) -> int | None:
    """The kind that comes nearest, if it is near enough."""
    found = {kind: compute(kind) for kind in kinds}
    best = min(kinds, key=lambda kind: float((found[kind].float() - expected.float()).norm()))
    return best if is_near(found[best], expected) else None


# -- gated layers ----------------------------------------------------------------------------------


def _has_linears(module: Any, dtype: torch.dtype, *names: str) -> bool:
    return all(_is_linear(getattr(module, name, None), dtype) for name in names)


def _is_linear(module: Any, dtype: torch.dtype) -> bool:
    if isinstance(module, QuantisedLinear):
        return True
    return type(module) is torch.nn.Linear and module.weight.dtype == dtype


def _fuse_mlp(module: Any, dtype: torch.dtype, kernels: RowKernels) -> bool:
    gate = module.gate_proj
    x = trial_input(TRIAL_ROWS, gate.in_features, dtype=dtype)
    expected = module(x)
    gate_up = whole_of([gate, module.up_proj])
    down = whole_of([module.down_proj])
    fitting = _fitting(
        expected, ACTIVATIONS, lambda kind: FusedMlp(kernels, gate_up, down, kind)(x)
    )
    if fitting is None:
        return False
    # The unpacked weights go; what is packed is found where its parts were.
    module.gate_proj, module.up_proj, module.down_proj = gate_up, torch.nn.Identity(), down
    module.forward = FusedMlp(kernels, gate_up, down, fitting)
    return True


# -- the rest --------------------------------------------------------------------------------------


def _pack_linears(model: torch.nn.Module, dtype: torch.dtype) -> int:
    packed = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if _is_linear(child, dtype) and not isinstance(child, QuantisedLinear):
                setattr(module, name, PackedLinear([child]))  # type: ignore[list-item]
                packed += 1
    return packed
