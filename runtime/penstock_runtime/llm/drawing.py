"""Draws of a step that nobody waits for: their tokens stay on the device, where the next step takes
them, and come to the host when they are done.

Only what a row's own logits decide is drawn like this. Whoever needs the text so far on the host
(penalties, a grammar, a floor under its length, drafts) or wants more than tokens is drawn by the
sampler, when that text is known.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass

import numpy as np
import torch

from penstock_runtime.llm.device_sampler import DeviceSampler, takes
from penstock_runtime.llm.draws import Draw, not_finite
from penstock_runtime.llm.endings import Chosen
from penstock_runtime.llm.packing import Feed
from penstock_runtime.llm.step import Row
from penstock_runtime.llm.transfers import Coming, down


@dataclass(frozen=True, slots=True)
class Drawing:
    """The tokens of a step's rows, on their way. `positions`: where in its text each will stand,
    None of a row that does not sample.
    """

    feed: Feed
    positions: tuple[int | None, ...]
    coming: Coming

    def results(self) -> list[Chosen]:
        """What was chosen for each row; waits for the step, and for nothing behind it."""
        tokens, fit = self.coming.wait().tolist()
        drawn = iter(zip(tokens, fit, strict=True))
        return [
            Chosen([]) if position is None else _chosen(*next(drawn), position)
            for position in self.positions
        ]


def is_simple(row: Row) -> bool:
    """Whether a row wants nothing but a token, or not even that: no drafts are to be judged, and no
    probabilities told.
    """
    params = row.sequence.params
    return row.logits == row.samples and params.logprobs is None and params.prompt_logprobs is None


def is_drawable(draw: Draw, device: DeviceSampler | None) -> bool:
    """Whether its logits are all that decides, and can be drawn from where they are."""
    return draw.state.plain or (device is not None and takes(draw))


def begin(
    rows: Several[Row], draws: list[Draw], logits: torch.Tensor, device: DeviceSampler | None
) -> Drawing:
    """Draw for all rows that sample: `draws` and `logits` (float32 [draws, vocabulary]) are theirs,
    in their order.
    """
    tokens = logits.argmax(-1)
    fit = logits.amax(-1).isfinite()
    random = [i for i, draw in enumerate(draws) if not draw.state.plain]
    if random and device is not None:
        at = down(np.array(random, np.int64), logits.device)
        chosen = device.choose([draws[i] for i in random], logits.index_select(0, at))
        tokens.index_copy_(0, at, chosen.clamp_(min=0).long())
    owners = {draw.state.sequence: i for i, draw in enumerate(draws)}
    positions = tuple(len(row.sequence.tokens) if row.samples else None for row in rows)
    return Drawing(Feed(tokens, owners), positions, Coming(torch.stack((tokens, fit.long()))))


def _chosen(token: int, fit: int, position: int) -> Chosen:
    return Chosen([token]) if fit else Chosen([], error=not_finite(position))
