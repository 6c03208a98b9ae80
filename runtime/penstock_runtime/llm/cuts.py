"""Which tokens may be drawn: temperature, then min-p, top-k of those, top-p of those, typical-p of
those; equals stay. The cuts are thresholds, as in the kernel `sample`.

The likeliest tokens of each row (its head) settle nearly every cut; only rows that they do not
settle are sorted. Typical-p: Meister, Pimentel, Wiher and Cotterell, "Locally typical sampling",
TACL 2023.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from penstock_runtime.llm.sampling_params import SamplingParams

Array = npt.NDArray[Any]

HEAD = 80
"""How many tokens of a row are looked at one by one: more than nearly every top_k."""

_SECOND_HEAD = 4096


@dataclass(frozen=True, slots=True)
class Cuts:
    """What is cut off, for each row: float32 [rows], and `top_k` int64, where 0 keeps all."""

    temperature: Array
    min_p: Array
    top_k: Array
    top_p: Array
    typical_p: Array

    @classmethod
    def of(cls, rows: Sequence[SamplingParams]) -> "Cuts":
        """What these parameters cut off, one for each row; all have a temperature above 0."""
        return cls(
            _floats(row.temperature for row in rows),
            _floats(row.min_p for row in rows),
            np.array([max(row.top_k, 0) for row in rows], np.int64),
            _floats(row.top_p for row in rows),
            _floats(row.typical_p for row in rows),
        )

    def rows(self, rows: Array) -> "Cuts":
        """Those of some of the rows."""
        return Cuts(
            self.temperature[rows],
            self.min_p[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.typical_p[rows],
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What may be drawn of each row: the tokens whose logit `x` is `least` or more. The head's
    tokens and logits [rows, head] go down from the highest.
    """

    x: torch.Tensor
    head_tokens: Array
    head_logits: Array
    least: Array

    @property
    def open_rows(self) -> Array:
        """The rows of which something behind the head may be kept."""
        last = self.head_logits[:, -1]
        if self.head_logits.shape[1] == self.x.shape[1]:
            return np.empty(0, np.int64)
        return np.flatnonzero((self.least <= last) & (last > -np.inf))

    def weights(self, rows: Array) -> torch.Tensor:
        """exp(logit - highest) of what is kept of these rows, else 0: [rows, vocabulary]."""
        x = self.x if len(rows) == len(self.x) else self.x[torch.from_numpy(rows).to(self.x.device)]
        highest, least = (
            torch.from_numpy(values[rows, None]).to(x.device)
            for values in (self.head_logits[:, 0], self.least)
        )
        weights = torch.sub(x, highest).exp_()
        if np.isfinite(self.least[rows]).any():
            weights[x < least] = 0
        return weights

    def probabilities(self, rows: Array) -> torch.Tensor:
        """The distribution that these rows are drawn from, float64 [rows, vocabulary]."""
        weights = self.weights(rows).double()
        return weights / weights.sum(-1, keepdim=True)


def cut(x: torch.Tensor, cuts: Cuts) -> Kept:
    """What the cuts keep of the logits [rows, vocabulary], which are scaled in place. Each row has
    a finite highest logit and no NaN.
    """
    x /= torch.from_numpy(cuts.temperature[:, None]).to(x.device)
    tokens, logits = _head(x)
    least = _thresholds(x, logits, cuts)
    kept = Kept(x, tokens, logits, least)
    typical = np.flatnonzero(cuts.typical_p < 1)
    if len(typical):
        _cut_untypical(kept, typical, cuts.typical_p[typical])
    return kept


def row_sums(weights: torch.Tensor) -> Array:
    """The sum of each row, in double precision: what shares the batch must not show in it."""
    if weights.device.type == "cpu":  # numpy's is three times as fast
        sums: Array = weights.numpy().sum(-1, dtype=np.float64)
        return sums
    return _numpy(weights.sum(-1, dtype=torch.float64))


def _head(x: torch.Tensor) -> tuple[Array, Array]:
    logits, tokens = x.topk(min(HEAD, x.shape[1]))
    return _numpy(tokens), _numpy(logits)


def _thresholds(x: torch.Tensor, head: Array, cuts: Cuts) -> Array:
    """The least logit that each row keeps; rows that their head does not settle are sorted."""
    least, settled = _settle(x, head, cuts)
    rows = np.flatnonzero(~settled)
    if not len(rows):
        return least
    rest, cuts = x[torch.from_numpy(rows)], cuts.rows(rows)
    logits = _sorted(rest)
    least[rows], settled = _settle(rest, logits[:, :_SECOND_HEAD], cuts)
    left = np.flatnonzero(~settled)
    if len(left):
        least[rows[left]], _ = _settle(rest[torch.from_numpy(left)], logits[left], cuts.rows(left))
    return least


def _settle(x: torch.Tensor, head: Array, cuts: Cuts) -> tuple[Array, Array]:
    """The least logit that each row keeps, and whether its head was enough to tell."""
    whole = head.shape[1] == x.shape[1]
    least, settled = _bounds(head, cuts, whole)
    nucleus = np.flatnonzero((cuts.top_p < 1) & settled)
    if not len(nucleus):
        return least, settled
    head, bound = head[nucleus], least[nucleus]
    weights = np.exp(head - head[:, :1]).astype(np.float64) * (head >= bound[:, None])
    mass = weights.sum(-1)
    hidden = np.flatnonzero(bound <= head[:, -1])
    if len(hidden) and not whole:
        rows = nucleus[hidden]
        behind = Kept(x[torch.from_numpy(rows)], head[hidden], head[hidden], bound[hidden])
        mass[hidden] = row_sums(behind.weights(np.arange(len(rows))))
    least[nucleus], found = _nucleus(head, weights, bound, cuts.top_p[nucleus] * mass)
    settled[nucleus] = found | whole
    return least, settled


def _bounds(head: Array, cuts: Cuts, whole: bool) -> tuple[Array, Array]:
    """The thresholds of min-p and top-k, and whether the head was enough to tell."""
    size = head.shape[1]
    with np.errstate(divide="ignore"):
        least = head[:, 0] + np.log(cuts.min_p)
    among = (cuts.top_k > 0) & (cuts.top_k <= size)
    place = np.where(among, cuts.top_k - 1, 0)
    bound = np.where(among, head[np.arange(len(head)), place], -np.inf)
    least = np.maximum(least, bound).astype(np.float32)
    settled = (cuts.top_k <= size) | (least > head[:, -1]) | whole
    return least, settled


def _nucleus(head: Array, weights: Array, least: Array, wanted: Array) -> tuple[Array, Array]:
    """The logit at which the head's mass reaches what is wanted, and whether it does."""
    place = (np.cumsum(weights, axis=-1) < wanted[:, None]).sum(-1)
    found = place < head.shape[1]
    ends = head[np.arange(len(head)), np.minimum(place, head.shape[1] - 1)]
    # Rounding may leave the mass a little short of all of it: then all that is kept is wanted.
    return np.maximum(ends, least), found


def _cut_untypical(kept: Kept, rows: Array, typical_p: Array) -> None:
    """Take from these rows what surprises much more, or much less, than is to be expected."""
    places = torch.from_numpy(rows).to(kept.x.device)
    p = kept.probabilities(rows)
    surprise = -p.log()
    expected = torch.where(p > 0, p * surprise, 0).sum(-1, keepdim=True)
    distance = (surprise - expected).abs()
    order = _ascending(distance)
    mass = p.gather(1, order).cumsum(-1)
    wanted = torch.from_numpy(typical_p[:, None]).to(p)
    last = (mass < wanted).sum(-1, keepdim=True).clamp_(max=p.shape[1] - 1)
    far = distance > distance.gather(1, order.gather(1, last))
    kept.x[places] = kept.x[places].masked_fill(far | (p == 0), -torch.inf)
    kept.head_tokens[rows], kept.head_logits[rows] = _head(kept.x[places])
    kept.least[rows] = -np.inf


def _ascending(x: torch.Tensor) -> torch.Tensor:
    """The order in which each row's values rise."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.argsort(x.numpy(), axis=-1))
    return x.argsort(-1)


def _sorted(x: torch.Tensor) -> Array:
    """Each row's logits, from the highest down."""
    if x.device.type == "cpu":  # numpy's is twenty times as fast
        return np.sort(x.numpy(), axis=-1)[:, ::-1]
    return _numpy(x.sort(descending=True).values)


def _numpy(x: torch.Tensor) -> Array:
    array: Array = x.cpu().numpy()
    return array


def _floats(values: Iterable[float]) -> Array:
    return np.fromiter(values, np.float32)
