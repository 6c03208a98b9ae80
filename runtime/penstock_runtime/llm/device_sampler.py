"""Draws on the device that holds the logits, by the kernel `sample`: one launch for all rows whose
logits nobody edits, and only their tokens come back.

A row's draw is the one that `race` makes wherever its cuts leave no more than the head; where they
leave more, it is another of the same distribution. Which of the two draws a row is decided by its
own parameters, so what else is in the batch still does not matter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_kernels.bitmask import TOKEN_BITMASK
from penstock_kernels.sample import SAMPLE
from penstock_runtime.llm.device_kernels import DeviceKernels
from penstock_runtime.llm.draws import Draw, not_finite
from penstock_runtime.llm.sampling_params import SamplingParams
from penstock_runtime.llm.transfers import down

_FLOATS = ("temperature", "top_p", "min_p", "repetition", "presence", "frequency")


class DeviceSampler:
    """Draws what it can, and leaves the rest."""

    def __init__(self, kernels: DeviceKernels) -> None:
        self._kernels = kernels

    def draw(self, draws: list[Draw], logits: torch.Tensor) -> list[Draw]:
        """Draw the tokens of those that it can do; the others come back."""
        own = [draw for draw in draws if takes(draw)]
        if not own:
            return draws
        rows = [row for draw in own for row in _rows(draw)]
        x = logits if rows == list(range(len(logits))) else logits[_longs(rows, logits)]
        x = x.contiguous()
        fit, tokens = x.amax(-1).isfinite(), self.choose(own, x).clamp_(min=0)
        # One copy, at which the host waits for the step.
        tokens, fit = torch.stack((tokens, fit.int())).tolist()
        at = 0
        for draw in own:
            count = len(_rows(draw))
            draw.tokens = tokens[at : at + count]
            if not all(fit[at : at + count]):
                draw.error = not_finite(draw.position)
            at += count
        return [draw for draw in draws if not takes(draw)]

    def mask(self, x: torch.Tensor, masks: npt.NDArray[Any], rows: Sequence[int]) -> None:
        """Apply grammars' masks (int32 [masks, words]) to their rows of dense logits: the bits
        travel, and not a float for each.
        """
        allowed = down(masks, x.device)
        self._kernels.launch(TOKEN_BITMASK, logits=x, allowed=allowed, row=_longs(list(rows), x))

    def choose(self, draws: list[Draw], x: torch.Tensor) -> torch.Tensor:
        """The tokens of draws that it takes, without waiting for them: int32, one for each row of
        the logits, which stand in the order of the draws; -1 where there is none.
        """
        each = [(draw, place) for draw in draws for place in range(len(_rows(draw)))]
        floats = down(_floats([draw.state.sequence.params for draw, _ in each]), x.device)
        longs = down(_integers(each), x.device)
        token = torch.empty(len(x), dtype=torch.int32, device=x.device)
        self._kernels.launch(
            SAMPLE,
            logits=x,
            counts=None,
            prompt=None,
            allowed=None,
            **dict(zip(_FLOATS, floats, strict=True)),
            seed=longs[0],
            step=longs[1],
            top_k=longs[2].int(),
            token=token,
            logprob=torch.empty(len(x), dtype=torch.float32, device=x.device),
        )
        return token


def takes(draw: Draw) -> bool:
    """Whether the kernel draws it: at random, from logits that nobody edits, by cuts it knows."""
    state = draw.state
    return not state.greedy and state.untouched and state.sequence.params.typical_p >= 1


def _rows(draw: Draw) -> range:
    return range(draw.first, draw.first + draw.state.positions(draw.drafts))


def _floats(params: Sequence[SamplingParams]) -> npt.NDArray[np.float32]:
    """Parameters in the order of their names, [names, rows]; there are no penalties."""
    rows = [(p.temperature, p.top_p, p.min_p, 1.0, 0.0, 0.0) for p in params]
    return np.ascontiguousarray(np.array(rows, np.float32).T)


def _integers(
    each: Sequence[tuple[Draw, int]],
) -> npt.NDArray[np.int64]:
    """Seeds, positions and top-k, [3, rows]."""
    seeds = [draw.state.sequence.seed & 0xFFFFFFFFFFFFFFFF for draw, _ in each]
    positions = [draw.position + place for draw, place in each]
    top_k = [min(max(draw.state.sequence.params.top_k, 0), 2**31 - 1) for draw, _ in each]
    whole = [np.array(seeds, np.uint64).view(np.int64), np.array(positions, np.int64)]
    return np.stack([*whole, np.array(top_k, np.int64)])


def _longs(rows: list[int], like: torch.Tensor) -> torch.Tensor:
    return down(np.array(rows, np.int64), like.device)
