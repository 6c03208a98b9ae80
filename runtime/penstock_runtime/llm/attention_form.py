"""How one layer of a model attends."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Form:
    """How one layer attends: softmax(softcap * tanh(scale * q k / softcap)) over the last `window`
    positions, with a logit of no value for each head in `sinks`.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether torch's own attention does it."""
        return self.softcap is None and self.sinks is None
