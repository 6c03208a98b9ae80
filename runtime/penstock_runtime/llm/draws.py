"""The draws of one step: the logits that each sequence is drawn from, and the tokens they give.

A draw that fails keeps its error to itself. It knows no drafts' fate: that is `verify`'s matter.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch

from penstock_runtime.errors import Internal, InvalidArgument, PenstockError
from penstock_runtime.llm.cuts import Cuts, Kept, cut
from penstock_runtime.llm.draw_state import DrawState
from penstock_runtime.llm.logit_edits import LogitEdits, Masker
from penstock_runtime.llm.race import race


@dataclass(slots=True)
class Draw:
    """One sequence's draws: a token after its text, and one after each of its drafts, from rows of
    the step's logits from `first` on. `position` is where the first will stand in the text.
    """

    state: DrawState
    first: int
    position: int
    drafts: list[int]
    tokens: list[int] = field(default_factory=list)
    error: PenstockError | None = None


@dataclass(frozen=True, slots=True)
class Shaped:
    """Logits after all edits, [rows, vocabulary], and which rows are of which draw."""

    x: torch.Tensor
    draws: list[Draw]
    spans: list[range]

    def of(self, *, greedy: bool) -> "Shaped":
        """Those whose likeliest token is taken, or the others."""
        chosen = [i for i, draw in enumerate(self.draws) if draw.state.greedy == greedy]
        if len(chosen) == len(self.draws):
            return self
        spans = [self.spans[i] for i in chosen]
        rows = torch.tensor([row for span in spans for row in span], dtype=torch.int64)
        draws = [self.draws[i] for i in chosen]
        return Shaped(self.x[rows.to(self.x.device)], draws, _packed(map(len, spans)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Draws at random, what they were made from, and which rows are of which draw."""

    kept: Kept
    draws: list[Draw]
    spans: list[range]


def likeliest(x: torch.Tensor) -> list[int]:
    """The highest of each row; a NaN counts as highest."""
    if x.device.type == "cpu":  # numpy's is ten times as fast
        tokens: list[int] = x.numpy().argmax(-1).tolist()
        return tokens
    best: list[int] = x.argmax(-1).tolist()
    return best


def finite(x: torch.Tensor, tokens: Several[int]) -> list[bool]:
    """Whether the logits of each row's highest are fit to draw from."""
    found = x.gather(1, torch.tensor(tokens, device=x.device)[:, None])[:, 0]
    fit: list[bool] = found.isfinite().tolist()
    return fit


def not_finite(position: int) -> PenstockError:
    """The error of a row whose logits are no numbers."""
    return Internal(
        f"the model's logits for position {position} have no finite highest", reason="NAN_LOGITS"
    )


def draw_likeliest(draws: list[Draw], logits: torch.Tensor) -> None:
    """Take the likeliest tokens; nothing is asked of these draws but that."""
    spans = [_span(draw) for draw in draws]
    x = _rows(logits, spans)
    tokens = likeliest(x)
    fit = finite(x, tokens)
    for draw, span in zip(draws, _packed(map(len, spans)), strict=True):
        draw.tokens = tokens[span.start : span.stop]
        if not all(fit[span.start : span.stop]):
            draw.error = not_finite(draw.position)


def shape(draws: list[Draw], logits: torch.Tensor, masker: Masker | None = None) -> Shaped:
    """Make each draw's edits in a copy of its logits. A row that nothing can be drawn from gets its
    error, and logits that can.
    """
    edits = LogitEdits(logits.shape[1], masker)
    sources: list[range] = []
    row = 0
    for draw in draws:
        sources.append(_edit(draw, edits, row))
        row += len(sources[-1])
    shaped = Shaped(_rows(logits, sources).clone(), draws, _packed(map(len, sources)))
    _refuse(shaped, lambda draw: not_finite(draw.position))
    edits.apply(shaped.x)
    _refuse(shaped, _nothing_left)
    return shaped


def draw_shaped(shaped: Shaped) -> Drawn | None:
    """Draw all of them; None if none is at random."""
    greedy, random = shaped.of(greedy=True), shaped.of(greedy=False)
    if greedy.draws:
        _hand_out(greedy, likeliest(greedy.x))
    if not random.draws:
        return None
    kept = keep(random)
    seeds: list[int] = []
    positions: list[int] = []
    for draw, span in zip(random.draws, random.spans, strict=True):
        seeds += [draw.state.sequence.seed] * len(span)
        positions += range(draw.position, draw.position + len(span))
    _hand_out(random, race(kept, seeds, positions))
    return Drawn(kept, random.draws, random.spans)


def keep(random: Shaped) -> Kept:
    """What the cuts leave of draws at random."""
    params = [
        draw.state.sequence.params
        for draw, span in zip(random.draws, random.spans, strict=True)
        for _ in span
    ]
    return cut(random.x, Cuts.of(params))


def _edit(draw: Draw, edits: LogitEdits, row: int) -> range:
    """Collect its edits for rows from `row` on; the rows of the step's logits that it has."""
    state = draw.state
    if state.untouched:
        return _span(draw)
    try:
        count = state.edit(edits, row, draw.drafts)
    except PenstockError as error:
        draw.error = error
    except Exception as error:
        # A grammar is foreign code that works on what a caller wrote.
        draw.error = Internal(f"the grammar failed: {error}")
    else:
        return range(draw.first, draw.first + count)
    # As many as it may have collected edits for.
    return _span(draw)


def _refuse(shaped: Shaped, reason: Callable[[Draw], PenstockError]) -> None:
    """Fail the draws of which some row has no finite highest."""
    fit = shaped.x.amax(-1).isfinite()
    if bool(fit.all()):
        return
    shaped.x[~fit] = 0
    for draw, span in zip(shaped.draws, shaped.spans, strict=True):
        if draw.error is None and not bool(fit[span.start : span.stop].all()):
            draw.error = reason(draw)


def _nothing_left(draw: Draw) -> PenstockError:
    return InvalidArgument(
        f"what the request asks for leaves no token for position {draw.position}"
    )


def _hand_out(shaped: Shaped, tokens: list[int]) -> None:
    for draw, span in zip(shaped.draws, shaped.spans, strict=True):
        draw.tokens = tokens[span.start : span.stop]


def _span(draw: Draw) -> range:
    return range(draw.first, draw.first + draw.state.positions(draw.drafts))


def _packed(sizes: Iterable[int]) -> list[range]:
    """Ranges of these sizes, one after the other."""
    ends = list(accumulate(sizes, initial=0))
    return [range(*pair) for pair in pairwise(ends)]


def _rows(logits: torch.Tensor, spans: list[range]) -> torch.Tensor:
    """These rows; the tensor itself, not a copy, if they are all of them."""
    rows = [row for span in spans for row in span]
    if rows == list(range(len(logits))):
        return logits
    return logits[torch.tensor(rows, dtype=torch.int64, device=logits.device)]
