"""What comes after the last layer of an encoder: hidden states to one vector, logits to scores.

In float32 whatever the encoder computes in, with the results of sentence-transformers.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.torch_program import read_safetensors
from penstock_runtime.errors import FailureReason, Internal
from penstock_runtime.llm.encoders.folder import WEIGHTS, broken, inside
from penstock_runtime.llm.encoders.sentence import NORMALIZE, Dense
from penstock_runtime.llm.encoders.spec import EncoderSpec

# hidden [rows, tokens, size], mask [rows, tokens, 1] with 1 where a token is, lengths [rows, 1]
Pooling = Callable[[Tensor, Tensor, Tensor], Tensor]


def mean(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    """The mean over a text's tokens."""
    return (hidden * mask).sum(1) / lengths


def cls(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    """The first token."""
    return hidden[:, 0]


def last(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    """A text's last token."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, lengths[:, 0].long() - 1]


def largest(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    """The largest value of each number over a text's tokens."""
    return hidden.masked_fill(mask == 0, -torch.inf).amax(1)


def mean_sqrt(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    """The sum over a text's tokens, by the root of their number."""
    return (hidden * mask).sum(1) / lengths.sqrt()


def weighted(hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:  # noqa: ARG001
    """The mean with weights 1, 2, 3 ... from the first token on."""
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
    weights = mask * places[None, :, None]
    return (hidden * weights).sum(1) / weights.sum(1)


POOLINGS: Mapping[str, Pooling] = {
    "mean": mean,
    "cls": cls,
    "lasttoken": last,
    "max": largest,
    "mean_sqrt_len_tokens": mean_sqrt,
    "weightedmean": weighted,
}
_NONLINEAR: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
}


class EmbeddingHead:
    """Poolings whose vectors are joined, and the dense layers after them."""

    def __init__(self, source: ModelSource, spec: EncoderSpec, device: torch.device) -> None:
        self._poolings = [POOLINGS[name] for name in spec.pooling]
        self.normalizes = spec.steps[-1:] == (NORMALIZE,)
        self.tensors: list[Tensor] = []
        self._steps: list[Callable[[Tensor], Tensor]] = []
        # Where normalising comes last, a request may say whether it is done.
        for step in spec.steps[:-1] if self.normalizes else spec.steps:
            if isinstance(step, Dense):
                self._steps.append(self._dense(source, step, device))
            else:
                self._steps.append(normalized)

    def __call__(self, hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """[rows, tokens, size] -> [rows, width], not yet normalised."""
        hidden = hidden.float()
        vectors = [pool(hidden, mask, lengths) for pool in self._poolings]
        joined = vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)
        for step in self._steps:
            joined = step(joined)
        return joined

    def _dense(
        self, source: ModelSource, step: Dense, device: torch.device
    ) -> Callable[[Tensor], Tensor]:
        name = f"{step.location}/{WEIGHTS}"
        found = read_safetensors(inside(source, name))
        weight, bias = found.get("linear.weight"), found.get("linear.bias")
        fits = weight is not None and tuple(weight.shape) == (step.outputs, step.inputs)
        if weight is None or not fits or (bias is None) == step.bias:
            raise broken(source, name, f"has no linear layer {step.inputs} to {step.outputs}")
        weight = weight.to(device, torch.float32)
        bias = None if bias is None else bias.to(device, torch.float32)
        self.tensors += [weight] if bias is None else [weight, bias]
        act = _NONLINEAR[step.activation]
        return lambda x: act(F.linear(x, weight, bias))


def normalized(vectors: Tensor) -> Tensor:
    """Rows of length 1."""
    return F.normalize(vectors, dim=1)


def activated(logits: Tensor, activation: str) -> Tensor:
    """Logits as scores."""
    if activation == "sigmoid":
        return torch.sigmoid(logits)
    return torch.softmax(logits, dim=1) if activation == "softmax" else logits


def check_finite(model: str, rows: Tensor) -> None:
    """float16 overflows in some encoders: better no answer than one that is no number."""
    if not bool(torch.isfinite(rows).all()):
        raise Internal(
            f"model '{model}' gave numbers that are not finite in float16; serve it with the"
            " parameter dtype bfloat16 or float32",
            reason="MODEL_FAILED",
            failure=FailureReason.BACKEND,
            scheduled=True,
        )
