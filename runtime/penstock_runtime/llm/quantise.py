"""Quantises the weights of a model that is loaded: one layer after the other, in place, each freed
before the next is made.

What is quantised: every linear layer inside the decoder's layers (fused ones too), and the head if
that is asked for. What is not:
* the embedding and the head (unless asked for), which perplexity is most sensitive to;
* layers of fewer than 32 inputs or outputs, such as the router of experts: nothing is won;
* for int4, the first of the decoder's layers becomes int8: all others carry its errors on, and more
  than half of the loss in perplexity is due to it;
* for int4, a layer whose inputs no group of 128, 64 or 32 divides becomes int8. Groups are of 128
  where a row has four of them: a small model needs the more scales.
It does not know where a model came from.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.linears import head_of, is_conv1d, linear_sizes, linears
from penstock_runtime.llm.quantised_kernel import QuantisedKernel, load_kernel
from penstock_runtime.llm.quantised_linear import QuantisedLinear
from penstock_runtime.llm.quantised_weight import GROUPS, group_for, quantise_weight

SCHEMES = {"none": 0, "": 0, "int8": 8, "int4": 4}
SMALLEST = 32
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class QuantisationReport:
    """What became of a model. The bytes are of the layers that were quantised; `skipped` says why
    of each other linear layer.
    """

    scheme: str
    bytes_before: int = 0
    bytes_after: int = 0
    layers: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    duration_s: float = 0.0
    fast: bool = False

    def __str__(self) -> str:
        way = "by the kernel" if self.fast else "by torch"
        return (
            f"{self.layers} layers {self.scheme}, {self.bytes_before} -> {self.bytes_after} bytes,"
            f" {len(self.skipped)} kept, multiplied {way}"
        )


def quantise_model(
    model: torch.nn.Module,
    scheme: str,
    *,
    group: int = GROUPS[0],
    head: bool = False,
    kernels: str = "auto",
    cuda_kernels: str = "auto",
    progress: Progress | None = None,
) -> QuantisationReport:
    """Quantise in place by `scheme`: none, int8 or int4. `kernels` is as `cpu_kernels` of the
    options (auto, off, require), `cuda_kernels` as there; `progress` is told layers done and in
    all. InvalidArgument names a scheme that is none.
    """
    bits = bits_of(scheme)
    if not bits:
        return QuantisationReport("none")
    fast = load_kernel(kernels)
    started, before, after = time.monotonic(), 0, 0
    chosen, skipped = choose(model, head=head)
    for done, name in enumerate(chosen):
        parent, last = _parent(model, name)
        old = getattr(parent, last)
        new = _quantised(old, 8 if _is_first(name) else bits, group, fast, cuda_kernels)
        before += old.weight.nbytes
        after += new.quantised.nbytes
        setattr(parent, last, new)
        # Else it lives until the next is made.
        del old
        if progress is not None:
            progress(done + 1, len(chosen))
    return QuantisationReport(
        scheme, before, after, len(chosen), skipped, time.monotonic() - started, fast is not None
    )


def bits_of(scheme: str) -> int:
    """The bits of a scheme, 0 for none."""
    if scheme not in SCHEMES:
        raise InvalidArgument(f"quantization is {scheme[:32]!r}, expected none, int8 or int4")
    return SCHEMES[scheme]


def choose(
    model: torch.nn.Module, *, head: bool = False
) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """The names of the layers to quantise, and of the others, each with the reason."""
    chosen: list[str] = []
    skipped: list[tuple[str, str]] = []
    the_head = head_of(model)
    for name, module in linears(model):
        sizes = linear_sizes(module)
        assert sizes is not None
        inputs, outputs = sizes
        if module is the_head and not head:
            skipped.append((name, "it is the head"))
        elif module is not the_head and not any(part.isdigit() for part in name.split(".")):
            skipped.append((name, "it is outside of the layers"))
        elif min(inputs, outputs) < SMALLEST:
            skipped.append((name, f"its weight is {outputs}x{inputs}"))
        else:
            chosen.append(name)
    return chosen, tuple(skipped)


def _quantised(
    module: Any, bits: int, group: int, kernel: QuantisedKernel | None, cuda_kernels: str
) -> QuantisedLinear:
    weight = module.weight.detach()
    if is_conv1d(module):
        weight = weight.t()
    if bits == 4 and not group_for(weight.shape[1], group):
        bits = 8
    made = quantise_weight(weight, bits, group)
    return QuantisedLinear(made, module.bias, kernel, cuda_kernels=cuda_kernels)


def _is_first(name: str) -> bool:
    """Whether it is in the first of the decoder's layers."""
    return next((part for part in name.split(".") if part.isdigit()), "") == "0"


def _parent(model: torch.nn.Module, name: str) -> tuple[torch.nn.Module, str]:
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
